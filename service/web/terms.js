// The pictures and sketches of the query, as chips in the search box.

import { icon, make } from "./dom.js";
import { sketchPicture } from "./pictures.js";

const NAMES = { image: "stored picture", picture: "picture", sketch: "sketch" };
const COUNTS = [
  [0.5, "½"],
  [1, "1"],
  [2, "2"],
];

export class Terms {
  #shown = "";

  /** `onChange(terms)`; `onEditSketch()`. `canWeigh`: whether several terms may count differently. */
  constructor(list, { sources, pictures, onChange, onEditSketch }) {
    Object.assign(this, { list, sources, pictures, onChange, onEditSketch });
  }

  render(query) {
    const isMany = query.terms.length + (query.words.trim() ? 1 : 0) > 1;
    const signature = JSON.stringify([query.terms, isMany]);
    if (signature === this.#shown) return;
    this.#shown = signature;
    this.list.hidden = query.terms.length === 0;
    this.list.replaceChildren(...query.terms.map((term) => this.#chip(term, query.terms, isMany)));
  }

  #chip(term, terms, isMany) {
    const name = NAMES[term.kind];
    const image = make("img", { class: "term-picture", alt: name, draggable: "false" });
    this.#showPreview(image, term);
    const remove = make(
      "button",
      {
        class: "term-remove",
        type: "button",
        "aria-label": `Remove the ${name} from the query`,
        on: { click: () => this.onChange(terms.filter((other) => other !== term)) },
      },
      icon("close"),
    );
    const preview =
      term.kind === "sketch"
        ? make("button", { class: "term-edit", type: "button", "aria-label": "Change the sketch", on: { click: this.onEditSketch } }, image)
        : image;
    return make("li", { class: "term" }, preview, isMany ? this.#counts(term, terms, name) : null, remove);
  }

  #counts(term, terms, name) {
    const select = make(
      "select",
      {
        class: "term-counts",
        "aria-label": `How often the ${name} counts`,
        on: {
          change: (event) =>
            this.onChange(terms.map((other) => (other === term ? { ...term, counts: Number(event.target.value) } : other))),
        },
      },
      COUNTS.map(([value, label]) => make("option", { value, text: `× ${label}`, selected: value === term.counts })),
    );
    return select;
  }

  async #showPreview(image, term) {
    if (term.kind === "image") {
      this.sources.show(image, `/images/${encodeURIComponent(term.id)}/thumbnail?side=96`);
      return;
    }
    const blob = term.kind === "sketch" ? await sketchPicture(term.strokes) : await this.pictures.find(term.key);
    if (!blob) return;
    const url = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  }
}
