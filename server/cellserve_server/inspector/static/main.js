// Which view is shown: the one that the part of the address after # names.

import { overview } from "./overview.js";
import { session } from "./session.js";
import { installTheme } from "./theme.js";
import { askJson, Refused, Unreachable } from "./api.js";
import { el, setText } from "./dom.js";
import { duration } from "./format.js";

const view = document.getElementById("view");
const link = document.getElementById("link");
const server = document.getElementById("server");
let close = () => {};

// What views tell the frame around them.
const frame = {
  live: () => {
    setText(link, "live");
    link.className = "good";
  },
  // Shows that a question had no answer, or was refused; what is neither is a fault of the page.
  failed: (error) => {
    if (error.name === "AbortError") return; // The view is closed.
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    setText(link, error instanceof Refused ? "refused" : "no answer; asking again");
    link.className = "bad";
  },
  facts: ({ address, version, store, uptime_s }) => {
    setText(server, `${address} · ${version} · ${store} · up ${duration(uptime_s)}`);
  },
};

function show() {
  const [name, query] = location.hash.replace(/^#?\/?/, "").split("?");
  close();
  view.replaceChildren();
  const parameters = new URLSearchParams(query ?? "");
  if (name === "") close = overview(view, frame);
  else if (name === "session" && parameters.has("id")) close = session(view, frame, parameters);
  else {
    view.append(el("p", { class: "notice" }, "There is no such page. ", el("a", { href: "#/" }, "To the overview")));
    close = () => {};
  }
  scrollTo(0, 0);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // The part of the address after # names the view.
  view.focus();
});
installTheme(document.getElementById("theme"));
addEventListener("hashchange", show);
show();
askJson("overview", { after: Date.now() }).then(frame.facts, () => {}); // Views say themselves that nobody answers.
