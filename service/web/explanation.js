// Why this picture: the phrases of a sentence, and the regions of the picture that each of them meets.

import { make } from "./dom.js";
import { number } from "./scores.js";

const LIT_REGIONS = 3;

export class Explanation {
  #asked = 0;

  /** `overlay`: an element exactly over the picture; `panel`: where the sentence goes. */
  constructor(api, overlay, panel) {
    Object.assign(this, { api, overlay, panel });
  }

  clear() {
    this.#asked += 1;
    this.overlay.replaceChildren();
    this.panel.replaceChildren();
  }

  /** Explain a sentence on a stored picture; `weight` is how much structure counts in the similarities. */
  async show({ text, title }, imageId, weight) {
    this.clear();
    const asked = this.#asked;
    const note = make("p", { class: "explained-answer", text: "Looking at the parts of the picture …" });
    this.panel.append(make("h3", { text: title }), make("p", { class: "explained", text }), note);
    let explained;
    try {
      explained = await this.api.explain({ text, image_id: imageId, structure_weight: weight });
    } catch (error) {
      note.textContent = error.message;
      return;
    }
    if (asked === this.#asked) this.#draw(text, title, explained);
  }

  #draw(text, title, explained) {
    this.regions = explained.regions.map(({ box: [left, top, right, bottom] }) => {
      const region = make("div", { class: "region" }, make("span", { class: "region-label" }));
      Object.assign(region.style, {
        left: `${left * 100}%`,
        top: `${top * 100}%`,
        width: `${(right - left) * 100}%`,
        height: `${(bottom - top) * 100}%`,
      });
      return region;
    });
    this.overlay.replaceChildren(...this.regions);
    this.answer = make("p", { class: "explained-answer", role: "status" });
    this.pinned = null;
    const phrases = explained.phrases.map((phrase, index) => this.#phrase(phrase, explained.similarities[index]));
    this.panel.replaceChildren(
      make("h3", { text: title }),
      make("p", { class: "explained" }, inSentence(text, explained.phrases, phrases)),
      this.answer,
    );
    this.#say(null);
  }

  #phrase(phrase, similarities) {
    const button = make("button", { class: "phrase", type: "button", "aria-pressed": "false", text: phrase.text });
    const light = () => this.#light(phrase, similarities, button);
    const settle = () => this.#settle();
    button.addEventListener("pointerenter", light);
    button.addEventListener("focus", light);
    button.addEventListener("pointerleave", settle);
    button.addEventListener("blur", settle);
    button.addEventListener("click", () => {
      const isPinned = this.pinned?.button === button;
      this.pinned?.button.setAttribute("aria-pressed", "false");
      this.pinned = isPinned ? null : { button, light };
      button.setAttribute("aria-pressed", String(!isPinned));
      light();
    });
    return button;
  }

  // The best regions are outlined, the strongest most; the rest of the picture steps back.
  #light(phrase, similarities, button) {
    const order = similarities.map((similarity, index) => ({ similarity, index })).sort((a, b) => b.similarity - a.similarity);
    const best = order[0]?.similarity ?? 0;
    const worst = order.at(-1)?.similarity ?? 0;
    const range = best - worst || 1;
    this.overlay.classList.add("is-lit");
    this.regions.forEach((region) => region.classList.remove("is-lit", "is-best"));
    order.slice(0, LIT_REGIONS).forEach(({ similarity, index }, place) => {
      const region = this.regions[index];
      region.classList.add("is-lit");
      region.classList.toggle("is-best", place === 0);
      region.style.setProperty("--strength", String(Math.max(0.15, ((similarity - worst) / range) ** 2)));
      region.firstElementChild.textContent = number(similarity);
    });
    for (const other of this.panel.querySelectorAll(".phrase")) other.classList.toggle("is-lit", other === button);
    this.#say(`“${phrase.text}” meets its best region with a similarity of ${number(best)}.`);
  }

  #settle() {
    if (this.pinned) {
      this.pinned.light();
      return;
    }
    this.overlay.classList.remove("is-lit");
    this.regions.forEach((region) => region.classList.remove("is-lit", "is-best"));
    for (const phrase of this.panel.querySelectorAll(".phrase")) phrase.classList.remove("is-lit");
    this.#say(null);
  }

  #say(text) {
    this.answer.textContent = text ?? "Point at a phrase to see which parts of the picture it meets.";
  }
}

/** The sentence with its phrases as buttons in it; phrases that overlap one before them follow behind. */
function inSentence(text, phrases, buttons) {
  const order = phrases.map((phrase, index) => ({ ...phrase, index })).sort((a, b) => a.start - b.start || b.end - a.end);
  const letters = [...text]; // the service counts code points
  const parts = [];
  const behind = [];
  let at = 0;
  for (const { start, end, index } of order) {
    if (!(start >= at && end > start)) {
      behind.push(buttons[index]);
      continue;
    }
    const phrase = letters.slice(start, end).join("");
    if (phrase.trim()) buttons[index].textContent = phrase;
    parts.push(letters.slice(at, start).join(""), buttons[index]);
    at = end;
  }
  parts.push(letters.slice(at).join(""));
  return behind.length ? [...parts, " ", ...behind.flatMap((button) => [button, " "])] : parts;
}
