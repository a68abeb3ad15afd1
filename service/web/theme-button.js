// Light, dark, or as the system has it.

import { byId } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const NAMES = { auto: "as the system has it", light: "light", dark: "dark" };

/** Let the button go through the themes; `theme.js` has set the stored one before the first paint. */
export function installThemeButton() {
  const button = byId("theme");
  const root = document.documentElement;
  const current = () => root.dataset.theme ?? "auto";
  const label = () => {
    button.title = `Theme: ${NAMES[current()]}`;
    button.setAttribute("aria-label", button.title);
  };
  label();
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    store(next);
    label();
  });
}

function store(theme) {
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
}
