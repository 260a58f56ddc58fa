// The sessions of the server, the most active first.

import { askJson } from "./api.js";
import { el, select, setText } from "./dom.js";
import { count, duration, rate } from "./format.js";

const LIMITS = [
  [10, "10"],
  [25, "25"],
  [50, "50"],
  [100, "100"],
  [200, "200"],
];
const TYPING_MS = 200;

// Title, what is shown of a session, by what the server orders it, and whether a phone has no room for it.
const COLUMNS = [
  {
    title: "Session",
    cell: (session) => el("a", { href: `#/session?${new URLSearchParams({ id: session.id })}` }, session.id),
  },
  { title: "Model", cell: (session) => session.model, wide: true },
  { title: "Rows", cell: (session) => count(session.rows), number: true, wide: true },
  { title: "Steps", cell: (session) => count(session.step_count), number: true, order: "step_count" },
  { title: "Steps/s", cell: (session) => rate(session.steps_per_second), number: true, order: "steps_per_second" },
  { title: "Unused for", cell: (session) => duration(session.idle_s), number: true, order: "last_used_time" },
  { title: "Age", cell: (session) => duration(session.age_s), number: true, order: "create_time", wide: true },
  { title: "Expires in", cell: (session) => duration(session.expires_in_s), number: true, wide: true },
];

export function sessionTable() {
  let order = "steps_per_second";
  let isDescending = true;
  let limit = 25;
  let changed = () => {};
  let typing = 0;
  const filter = el("input", {
    type: "search",
    maxlength: "128",
    placeholder: "part of an id",
    oninput: () => {
      clearTimeout(typing);
      typing = setTimeout(() => changed(), TYPING_MS);
    },
  });
  const shown = el("span", { class: "muted", role: "status" });
  const heads = COLUMNS.map((column) => head(column));
  const body = el("tbody");

  function head(column) {
    const classes = [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ");
    const cell = el("th", { scope: "col", class: classes });
    if (!column.order) {
      cell.append(column.title);
      return cell;
    }
    const press = () => {
      isDescending = order === column.order ? !isDescending : true;
      order = column.order;
      mark();
      changed();
    };
    cell.append(el("button", { type: "button", onclick: press }, column.title));
    return cell;
  }

  function mark() {
    COLUMNS.forEach((column, index) => {
      if (column.order !== order) heads[index].removeAttribute("aria-sort");
      else heads[index].setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    });
  }

  function row(session) {
    const cells = COLUMNS.map((column) => {
      const classes = [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ");
      return el("td", { class: classes }, column.cell(session));
    });
    return el("tr", { "data-id": session.id }, ...cells);
  }

  // The row of a session stays the same element, so that a link that has the focus, or is being clicked, stays.
  function show(sessions) {
    const before = new Map([...body.children].map((element) => [element.dataset.id, element]));
    const rows = sessions.map((session) => {
      const element = before.get(session.id);
      if (!element) return row(session);
      COLUMNS.forEach((column, index) => {
        const content = column.cell(session);
        if (typeof content === "string") setText(element.children[index], content);
      });
      return element;
    });
    const isSame =
      rows.length === body.children.length && rows.every((element, index) => body.children[index] === element);
    if (isSame) return;
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    body.replaceChildren(...rows);
    focused?.focus({ preventScroll: true });
  }

  mark();
  const element = el(
    "section",
    { class: "card table", "aria-label": "Sessions" },
    el(
      "div",
      { class: "card-head" },
      el("h2", {}, "Sessions"),
      el("label", { class: "field" }, el("span", {}, "Filter"), filter),
      select("Show", LIMITS, limit, (value) => {
        limit = Number(value);
        changed();
      }),
      shown,
    ),
    el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body),
  );
  return {
    element,
    onChange: (listener) => (changed = listener),
    load: async (signal) => {
      const order_by = isDescending ? `${order} desc` : order;
      const contains = filter.value;
      const answer = await askJson("sessions", { order_by, limit, ...(contains && { contains }) }, signal);
      show(answer.sessions);
      setText(
        shown,
        `${count(answer.sessions.length)} of ${count(answer.total)} in memory${contains ? ", filtered" : ""}`,
      );
    },
  };
}
