// Filters on metadata, made from what the collection holds.

import { byId, make } from "./dom.js";
import { filterKey } from "./query.js";

const SHORT = 8;

export class Filters {
  #fields = [];
  #filters = {};

  /** `onChange(filters)`. */
  constructor(onChange) {
    this.panel = byId("filters");
    this.button = byId("open-filters");
    this.badge = byId("num-filters");
    this.onChange = onChange;
    this.button.addEventListener("click", () => this.#toggle(this.panel.hidden));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.#toggle(false);
      this.button.focus();
    });
  }

  /** Offer these fields of `GET /fields`; the button is hidden while there is none. */
  offer(fields) {
    this.#fields = fields.filter(groupsPictures);
    this.button.hidden = this.#fields.length === 0;
    if (this.button.hidden) this.#toggle(false);
    this.#draw();
  }

  render(query) {
    this.badge.textContent = String(Object.keys(query.filters).length);
    this.badge.hidden = this.badge.textContent === "0";
    if (JSON.stringify(query.filters) === JSON.stringify(this.#filters)) return;
    this.#filters = query.filters;
    this.#draw();
  }

  #toggle(isOpen) {
    this.panel.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
  }

  #change(key, filter) {
    const filters = { ...this.#filters };
    if (filter) filters[key] = filter;
    else delete filters[key];
    this.#filters = filters; // what is drawn already shows it
    this.#drawClear();
    this.onChange(filters);
  }

  #draw() {
    this.clear = make("button", {
      class: "button quiet",
      type: "button",
      text: "Clear all filters",
      on: {
        click: () => {
          this.onChange({});
          this.button.focus();
        },
      },
    });
    this.panel.replaceChildren(
      make("div", { class: "filter-fields" }, this.#fields.map((field) => this.#fieldset(field))),
      this.clear,
    );
    this.#drawClear();
  }

  #drawClear() {
    this.clear.hidden = Object.keys(this.#filters).length === 0;
  }

  #fieldset(field) {
    const legend = make("legend", { text: readable(field.name), title: `${field.num_images} pictures have it` });
    const isRange = isNumber(field.min) && isNumber(field.max) && (field.values?.length ?? 0) !== 1;
    const body = isRange ? this.#range(field) : this.#values(field);
    return make("fieldset", { class: "filter" }, legend, body);
  }

  #range(field) {
    const chosen = this.#filters[filterKey(field.name)] ?? {};
    const inputs = ["min", "max"].map((end) =>
      make("input", {
        type: "number",
        class: "filter-number",
        step: "any",
        "aria-label": `${readable(field.name)}: ${end === "min" ? "at least" : "at most"}`,
        placeholder: String(field[end]),
        value: chosen[end] ?? null,
        on: { change: () => this.#change(filterKey(field.name), rangeOf(inputs)) },
      }),
    );
    return make("div", { class: "filter-range" }, inputs[0], make("span", { text: "to", "aria-hidden": "true" }), inputs[1]);
  }

  #values(field) {
    const chosen = this.#filters[filterKey(field.name)]?.values ?? [];
    const offered = [...field.values];
    for (const value of chosen) {
      if (!offered.some((entry) => entry.value === value)) offered.push({ value, num_images: null });
    }
    const chips = offered.map((entry) => this.#value(field, entry, chosen.includes(entry.value)));
    const list = make("div", { class: "filter-values" }, chips.slice(0, SHORT));
    if (chips.length > SHORT) {
      const more = make("button", {
        class: "link-button",
        type: "button",
        text: `${chips.length - SHORT} more`,
        on: { click: () => more.replaceWith(...chips.slice(SHORT)) },
      });
      if (chips.slice(SHORT).some((chip) => chip.querySelector("input").checked)) list.append(...chips.slice(SHORT));
      else list.append(more);
    }
    return list;
  }

  #value(field, { value, num_images: numImages }, isChosen) {
    const input = make("input", {
      class: "visually-hidden",
      type: "checkbox",
      on: { change: () => this.#change(filterKey(field.name), withValue(this.#filters[filterKey(field.name)], value, input.checked)) },
    });
    input.checked = isChosen;
    return make(
      "label",
      { class: "filter-value" },
      input,
      make("span", { text: valueText(value) }),
      numImages === null ? null : make("small", { text: String(numImages) }),
    );
  }
}

/** Whether a field tells groups of pictures apart; a file name, say, that each has its own of, is no filter. */
function groupsPictures(field) {
  if (isNumber(field.min)) return true;
  const isOwnOfEach = field.num_images > 5 && field.values?.every((entry) => entry.num_images === 1);
  return Boolean(field.values?.length) && !isOwnOfEach;
}

function isNumber(value) {
  return typeof value === "number";
}

function rangeOf(inputs) {
  const [min, max] = inputs.map((input) => (input.value === "" ? undefined : input.valueAsNumber));
  if (min === undefined && max === undefined) return null;
  return { ...(min === undefined ? {} : { min }), ...(max === undefined ? {} : { max }) };
}

function withValue(filter, value, isOn) {
  const others = (filter?.values ?? []).filter((other) => other !== value);
  const values = isOn ? [...others, value] : others;
  return values.length ? { values } : null;
}

function valueText(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  return value === null ? "nothing" : String(value);
}

/** `main_colour` as `main colour`. */
export function readable(name) {
  return (Array.isArray(name) ? name.join(" › ") : name).replaceAll("_", " ");
}
