// Pictures that come in by drop, paste or file.

import { byId } from "./dom.js";

/**
 * Watch for pictures.
 *
 * `target()` says what pictures dropped or pasted now are for: `{text, take(files)}`.
 */
export function watchIncoming(target) {
  const veil = byId("drop-veil");
  let depth = 0; // dragenter and dragleave come for every element passed
  const hide = () => {
    depth = 0;
    veil.hidden = true;
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth += 1;
    byId("drop-text").textContent = target().text;
    veil.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth -= 1;
    if (depth <= 0) hide();
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hide();
    take(target(), event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (files.length === 0) return; // words: for whichever field has the focus
    event.preventDefault();
    take(target(), files);
  });
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

function take(target, files) {
  if (files.length) target.take([...files]);
}
