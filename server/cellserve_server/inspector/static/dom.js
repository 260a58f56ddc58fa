// Elements, made by name. Texts go in as text, never as markup: names come from whoever uses the server.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function select(label, options, value, onChange) {
  const box = el(
    "select",
    { onchange: () => onChange(box.value) },
    ...options.map(([key, text]) => el("option", { value: String(key) }, text)),
  );
  box.value = String(value);
  return el("label", { class: "field" }, el("span", {}, label), box);
}
