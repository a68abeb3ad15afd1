// One picture, large: its edge map, its score taken apart, why it was found, and where to go from it.

import { serviceUrl } from "./api.js";
import { byId, icon, iconButton, make } from "./dom.js";
import { Explanation } from "./explanation.js";
import { readable } from "./filters.js";
import { number, parts, percent, splitBar } from "./scores.js";

export class Detail {
  #item = null;

  /**
   * `on`: `close()`, `step(direction)`, `similar(id, weight)`, `exclude(id)`, `combine(id)`; the last two may be
   * null where the service cannot do it, and `canExplain` false.
   */
  constructor(api, sources, on) {
    this.sources = sources;
    this.on = on;
    this.features = { explain: false, exclude: false, combine: false };
    this.dialog = byId("detail");
    this.#build(api);
    // Also when Escape closes it.
    this.dialog.addEventListener("close", () => {
      this.#item = null;
      this.on.close();
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("keydown", (event) => this.#onKey(event));
  }

  #build(api) {
    this.picture = make("img", { class: "stage-picture", alt: "" });
    this.edges = make("img", { class: "stage-edges", alt: "" });
    this.overlay = make("div", { class: "stage-overlay", "aria-hidden": "true" });
    this.frame = make("div", { class: "stage-frame" }, this.picture, this.edges, this.overlay);
    this.edgesButton = make(
      "button",
      { class: "button quiet toggle", type: "button", "aria-pressed": "false", on: { click: () => this.#showEdges() } },
      icon("edges"),
      "Edges",
    );
    this.previous = iconButton("left", "The picture before", () => this.on.step(-1));
    this.next = iconButton("right", "The next picture", () => this.on.step(1));
    this.title = make("h2", { class: "detail-title" });
    this.score = make("section", { class: "detail-score", "aria-label": "Score" });
    this.explained = make("section", { class: "detail-explained", "aria-label": "Why this picture" });
    this.metadata = make("dl", { class: "detail-metadata" });
    this.actions = make("div", { class: "detail-actions" });
    this.original = make("a", { class: "detail-original", target: "_blank", rel: "noopener" });
    this.explanation = new Explanation(api, this.overlay, this.explained);
    const close = iconButton("close", "Close", () => this.dialog.close());
    this.dialog.append(
      make(
        "div",
        { class: "detail-grid" },
        make(
          "div",
          { class: "stage" },
          this.frame,
          make("div", { class: "stage-tools" }, this.previous, this.edgesButton, this.next),
        ),
        make(
          "div",
          { class: "detail-side" },
          make("div", { class: "detail-head" }, this.title, close),
          this.score,
          this.explained,
          this.actions,
          this.metadata,
          this.original,
        ),
      ),
    );
  }

  get shownId() {
    return this.#item?.id ?? null;
  }

  /** Show an item: a hit or a record. `sentence`: what is explained, `{text, title}` or null. */
  show(item, { weight, sentence, hasPrevious, hasNext }) {
    this.#item = item;
    this.title.textContent = item.caption ? "" : item.id;
    this.title.hidden = Boolean(item.caption);
    this.dialog.setAttribute("aria-label", `Picture ${item.id}`);
    this.picture.alt = item.caption || item.id;
    this.sources.show(this.picture, `${item.links.thumbnail}?side=1024`);
    this.frame.style.setProperty("--shape", String(item.width / item.height));
    this.#showEdges(false);
    this.previous.disabled = !hasPrevious;
    this.next.disabled = !hasNext;
    this.#showScore(item, weight);
    this.#showExplanation(item, sentence, weight);
    this.actions.replaceChildren(...this.#actions(item));
    this.metadata.replaceChildren(...metadataRows(item));
    this.original.textContent = `Original, ${item.width} × ${item.height}`;
    this.#linkOriginal(item);
    if (!this.dialog.open) this.dialog.showModal();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  #showExplanation(item, sentence, weight) {
    if (this.features.explain && sentence) {
      this.explanation.show(sentence, item.id, weight);
      return;
    }
    this.explanation.clear();
    if (item.caption) this.explained.append(make("p", { class: "explained", text: item.caption }));
  }

  #showEdges(isOn = !this.frame.classList.contains("shows-edges")) {
    if (isOn) this.sources.show(this.edges, this.#item.links.edges);
    this.frame.classList.toggle("shows-edges", isOn);
    this.edgesButton.setAttribute("aria-pressed", String(isOn));
  }

  #showScore(item, weight) {
    this.score.hidden = item.score === undefined;
    if (this.score.hidden) return;
    const added = parts(item, weight);
    const hasConfidence = item.confidence !== null && item.confidence !== undefined;
    const row = (name, score, share, part) =>
      make(
        "div",
        { class: `score-row ${name}` },
        make("span", { class: "score-name", text: name }),
        make("span", { class: "score-sum", text: `${number(share)} × ${number(score, 3)}` }),
        make("span", { class: "score-part", text: number(part, 3) }),
      );
    this.score.replaceChildren(
      make(
        "div",
        { class: "score-head" },
        hasConfidence ? make("strong", { text: `${percent(item.confidence)} confident` }) : make("strong", { text: "Score" }),
        make("span", { class: "score-total", text: number(item.score, 3) }),
      ),
      splitBar(item, weight, Math.max(item.score, 1e-9)),
      row("appearance", item.scores.appearance, 1 - weight, added.appearance),
      row("structure", item.scores.structure, weight, added.structure),
    );
  }

  #actions(item) {
    const button = (label, act, extra = "") =>
      make("button", { class: `button ${extra}`.trim(), type: "button", on: { click: act } }, label);
    const similar = make(
      "div",
      { class: "similar", role: "group", "aria-label": "More like this" },
      make("span", { class: "similar-label", text: "More like this" }),
      button("by appearance", () => this.on.similar(item.id, 0), "appearance"),
      button("by structure", () => this.on.similar(item.id, 1), "structure"),
    );
    return [
      similar,
      this.features.combine ? button("Add to the query", () => this.on.combine(item.id), "quiet") : null,
      this.features.exclude ? button("Less like this", () => this.on.exclude(item.id), "quiet") : null,
    ].filter(Boolean);
  }

  // A link cannot send an API key: then the file is fetched when it is wanted.
  #linkOriginal(item) {
    const { api } = this.sources;
    if (api.keys.current() === null) {
      this.original.href = serviceUrl(item.links.file);
      this.original.onclick = null;
      return;
    }
    this.original.href = "#";
    this.original.onclick = async (event) => {
      event.preventDefault();
      const url = URL.createObjectURL(await api.blob(item.links.file));
      const link = make("a", { href: url, download: item.id });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    };
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft" && !this.previous.disabled) this.on.step(-1);
    else if (event.key === "ArrowRight" && !this.next.disabled) this.on.step(1);
  }
}

function metadataRows(item) {
  const entries = Object.entries(item.metadata);
  if (item.caption) entries.unshift(["id", item.id]);
  return entries.flatMap(([name, value]) => [make("dt", { text: readable(name) }), make("dd", { text: valueText(value) })]);
}

function valueText(value) {
  if (Array.isArray(value)) return value.map(valueText).join(", ");
  if (value !== null && typeof value === "object") return JSON.stringify(value);
  return String(value);
}
