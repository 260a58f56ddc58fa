// Light or dark: as the system has it, until somebody chooses.

const KEY = "cellserve-inspector-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

export const theme = () => localStorage.getItem(KEY) ?? (dark.matches ? "dark" : "light");

export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function apply() {
  document.documentElement.dataset.theme = theme();
  for (const listener of listeners) listener();
}

export function installTheme(button) {
  const show = () => {
    const other = theme() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "☾" : "☀";
    button.setAttribute("aria-label", `Switch to ${other}`);
    button.title = `Switch to ${other}`;
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  listeners.add(show);
  apply();
}
