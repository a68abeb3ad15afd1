// The row below the search box: how much structure counts, and what is excluded.

import { byId, icon, make } from "./dom.js";
import { percent } from "./scores.js";

export class WeightSlider {
  /** `onChange(weight)`: a number while the slider moves, null when reset to the model's own. */
  constructor(onChange) {
    this.input = byId("weight");
    this.value = byId("weight-value");
    this.reset = byId("weight-reset");
    this.input.addEventListener("input", () => {
      this.#say(this.input.valueAsNumber / 100);
      this.reset.hidden = false;
      onChange(this.input.valueAsNumber / 100);
    });
    this.reset.addEventListener("click", () => {
      onChange(null);
      this.input.focus();
    });
  }

  /** Show the query's weight, or the one that the service used (`used`) where the query leaves it open. */
  render(query, used) {
    const weight = query.weight ?? used;
    this.input.value = String(Math.round(weight * 100));
    this.reset.hidden = query.weight === null;
    this.#say(weight);
  }

  #say(weight) {
    this.value.textContent = percent(weight);
    this.input.setAttribute("aria-valuetext", `${percent(weight)} structure, ${percent(1 - weight)} appearance`);
    this.input.style.setProperty("--share", String(weight));
  }
}

export class Exclusions {
  /** `onChange(without)`. */
  constructor({ sources, onChange }) {
    this.sources = sources;
    this.onChange = onChange;
    this.list = byId("without");
    this.input = byId("without-words");
    this.without = [];
    this.input.addEventListener("keydown", (event) => this.#onKey(event));
    this.input.addEventListener("change", () => this.#take());
  }

  render(query) {
    this.without = query.without;
    this.list.replaceChildren(...query.without.map((exclusion) => this.#chip(exclusion)));
  }

  #onKey(event) {
    if (event.key === "Enter" || (event.key === "," && this.input.value.trim())) {
      event.preventDefault();
      this.#take();
    } else if (event.key === "Backspace" && this.input.value === "" && this.without.length) {
      this.onChange(this.without.slice(0, -1));
    }
  }

  #take() {
    const words = this.input.value.trim();
    this.input.value = "";
    const isKnown = this.without.some((exclusion) => exclusion.words === words);
    if (words && !isKnown) this.onChange([...this.without, { kind: "words", words }]);
  }

  #chip(exclusion) {
    const name = exclusion.kind === "words" ? exclusion.words : "this picture";
    return make(
      "li",
      { class: "chip" },
      exclusion.kind === "words" ? make("span", { class: "chip-words", text: name }) : this.#preview(exclusion),
      make(
        "button",
        {
          class: "chip-remove",
          type: "button",
          "aria-label": `No longer exclude ${name}`,
          on: { click: () => this.onChange(this.without.filter((other) => other !== exclusion)) },
        },
        icon("close"),
      ),
    );
  }

  #preview(exclusion) {
    const image = make("img", { class: "chip-picture", alt: "pictures like this one" });
    this.sources.show(image, `/images/${encodeURIComponent(exclusion.id)}/thumbnail?side=64`);
    return image;
  }
}
