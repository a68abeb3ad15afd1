// Elements from plain values. Text goes in as text and nowhere becomes HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of the document with this id; a missing one is a mistake of ours and says so at once. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/**
 * Make an element.
 *
 * `properties`: `class`, `text`, `on` (event listeners by name), `data` (data attributes), and attributes by their
 * names, where `true` sets an empty one and `false`, `null` and `undefined` leave it out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An icon of the sprite in index.html; what it means must stand beside it or in the button's label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon only. */
export function iconButton(name, label, onClick, properties = {}) {
  return make(
    "button",
    { class: "icon-button", type: "button", "aria-label": label, title: label, on: { click: onClick }, ...properties },
    icon(name),
  );
}

/** Whether the user asked the system for less motion. */
export function wantsLessMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
