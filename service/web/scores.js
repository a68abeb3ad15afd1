// Numbers of a hit as people read them.

import { make } from "./dom.js";

/** `0.3` as `30 %`. */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** A score with two digits, and a real minus sign. */
export function number(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

/** What the two views add to the score: `(1 - w) * appearance` and `w * structure`. */
export function parts(hit, weight) {
  return {
    appearance: (1 - weight) * hit.scores.appearance,
    structure: weight * hit.scores.structure,
  };
}

/** A bar in two colours; `best` is the score that fills it. A part below zero takes no room. */
export function splitBar(hit, weight, best) {
  const { appearance, structure } = parts(hit, weight);
  const bar = make("span", { class: "split", "aria-hidden": "true" });
  for (const [name, value] of [["appearance", appearance], ["structure", structure]]) {
    const part = make("span", { class: `split-part ${name}` });
    part.style.width = `${best > 0 ? Math.max(0, Math.min(1, value / best)) * 100 : 0}%`;
    bar.append(part);
  }
  return bar;
}

/** The same in words, for whoever does not see the bar. */
export function spokenScore(hit) {
  const confidence = hit.confidence === null || hit.confidence === undefined ? "" : `confidence ${percent(hit.confidence)}, `;
  return (
    `${confidence}score ${number(hit.score)}, ` +
    `appearance ${number(hit.scores.appearance)}, structure ${number(hit.scores.structure)}`
  );
}
