// One picture of the gallery: the picture, its edge map on hover or focus, and its score split in two.

import { make } from "./dom.js";
import { number, percent, splitBar, spokenScore } from "./scores.js";

const HOVER_MILLISECONDS = 90;

export class Card {
  #timer = null;

  /** `onOpen(id)` is called when the card is chosen. */
  constructor(item, sources, onOpen) {
    this.id = item.id;
    this.sources = sources;
    this.picture = make("img", { class: "card-picture", alt: "", draggable: "false", decoding: "async" });
    this.edges = make("img", { class: "card-edges", alt: "", draggable: "false", decoding: "async" });
    this.picture.addEventListener("load", () => this.element.classList.add("is-loaded"));
    this.picture.addEventListener("error", () => this.element.classList.add("is-broken"));
    this.edges.addEventListener("load", () => this.edges.classList.add("is-loaded"));
    this.frame = make("span", { class: "card-frame" }, this.picture, this.edges);
    this.foot = make("span", { class: "card-foot" });
    this.spoken = make("span", { class: "visually-hidden" });
    this.button = make(
      "button",
      { class: "card-open", type: "button", on: { click: () => onOpen(this.id) } },
      this.frame,
      this.spoken,
      this.foot,
    );
    this.element = make("li", { class: "card", data: { id: item.id } }, this.button);
    this.#listen();
  }

  #listen() {
    // A finger has no hover: there the Edges button shows all of them, and the detail view this one.
    this.element.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && this.#lookLater());
    this.element.addEventListener("pointerleave", () => this.lookAway());
    this.button.addEventListener("focus", () => this.button.matches(":focus-visible") && this.#lookLater());
    this.button.addEventListener("blur", () => this.lookAway());
  }

  #lookLater() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.loadEdges();
      this.element.classList.add("shows-edges");
    }, HOVER_MILLISECONDS);
  }

  /** Show the picture again. */
  lookAway() {
    clearTimeout(this.#timer);
    this.element.classList.remove("shows-edges");
  }

  /** Fetch the edge map, once. */
  loadEdges() {
    this.sources.show(this.edges, this.item.links.edges);
  }

  /** Show an item: a hit with scores, or a record without. `best` is the score that fills the bar. */
  update(item, { weight, best, rank }) {
    this.item = item;
    this.rank = rank;
    this.picture.alt = item.caption || item.id;
    this.sources.show(this.picture, `${item.links.thumbnail}?side=480`);
    const isHit = item.score !== undefined;
    this.foot.hidden = !isHit;
    this.spoken.textContent = isHit ? `. ${rank}, ${spokenScore(item)}` : "";
    if (isHit) this.foot.replaceChildren(...footParts(item, weight, best));
  }

  /** Width divided by height. */
  get shape() {
    return this.item.width / this.item.height;
  }

  resize({ width, height }) {
    this.element.style.width = `${width}px`;
    this.frame.style.height = `${height}px`;
  }
}

function footParts(hit, weight, best) {
  const hasConfidence = hit.confidence !== null && hit.confidence !== undefined;
  const first = hasConfidence
    ? make("span", { class: "card-confidence", text: percent(hit.confidence), title: "Confidence that this matches" })
    : null;
  const title = `appearance ${number(hit.scores.appearance)} · structure ${number(hit.scores.structure)}`;
  return [
    first,
    splitBar(hit, weight, best),
    make("span", { class: "card-score", text: number(hit.score), title, "aria-hidden": "true" }),
  ].filter(Boolean);
}

