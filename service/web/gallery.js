// The gallery: cards in justified rows, kept while results change, so that a moved slider moves pictures.

import { Card } from "./cards.js";
import { wantsLessMotion } from "./dom.js";
import { justifiedRows } from "./layout.js";

const MOVE = { duration: 320, easing: "cubic-bezier(.2,.7,.2,1)" };
const NARROW = 560;
const MAX_KEPT = 200;

export class Gallery {
  #cards = new Map(); // id -> Card, in the order shown
  #kept = new Map(); // cards that went out of the results: while words are typed, pictures come and go
  #width = 0;
  #column = null; // of a walk up and down with the arrow keys: the card it came to, and where it began

  /** `list`: the <ul>; `onOpen(id)`: a picture was chosen. */
  constructor(list, sources, onOpen) {
    this.list = list;
    this.sources = sources;
    this.onOpen = onOpen;
    new ResizeObserver(() => {
      if (list.clientWidth !== this.#width) this.#layOut();
    }).observe(list);
    list.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** The items shown, best first. */
  get items() {
    return [...this.#cards.values()].map((card) => card.item);
  }

  /** Show these items and no others. */
  show(items, { weight = 0 } = {}) {
    const places = this.#places();
    const before = this.#cards;
    this.#cards = new Map();
    this.#place(items, before, { weight, first: 1 });
    for (const [id, card] of before) if (!this.#cards.has(id)) this.#keep(card);
    this.#reorder();
    this.#layOut();
    this.#animateFrom(places);
  }

  /** Fetch pictures anew: some may have been replaced. */
  forget() {
    this.#kept.clear();
  }

  /** Show these items behind the others. */
  append(items, { weight = 0 } = {}) {
    this.#place(items, this.#cards, { weight, first: this.#cards.size + 1 });
    this.#reorder();
    this.#layOut();
  }

  /** Show the edge maps of all pictures, or the pictures. */
  showEdges(isOn) {
    this.list.classList.toggle("shows-all-edges", isOn);
    if (isOn) for (const card of this.#cards.values()) card.loadEdges();
  }

  /** Put the keyboard's focus on a picture. */
  focus(id) {
    this.#cards.get(id)?.button.focus({ preventScroll: false });
  }

  #place(items, existing, { weight, first }) {
    const best = Math.max(...items.map((item) => item.score ?? 0), this.#best(), 0);
    items.forEach((item, position) => {
      const card = existing.get(item.id) ?? this.#kept.get(item.id) ?? new Card(item, this.sources, this.onOpen);
      this.#kept.delete(item.id);
      card.update(item, { weight, best, rank: first + position });
      this.#cards.set(item.id, card);
    });
    if (this.list.classList.contains("shows-all-edges")) this.showEdges(true);
  }

  #keep(card) {
    card.element.remove();
    card.lookAway(); // nothing tells an element that is gone that the pointer left it
    this.#kept.set(card.id, card);
    if (this.#kept.size > MAX_KEPT) this.#kept.delete(this.#kept.keys().next().value);
  }

  #best() {
    return Math.max(0, ...[...this.#cards.values()].map((card) => card.item.score ?? 0));
  }

  // Only what is not in its place is moved: an element that is moved loses focus and hover.
  #reorder() {
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    let next = this.list.firstElementChild;
    for (const { element } of this.#cards.values()) {
      if (element === next) next = next.nextElementSibling;
      else this.list.insertBefore(element, next);
    }
    if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  #layOut() {
    const cards = [...this.#cards.values()];
    this.#width = this.list.clientWidth;
    const isNarrow = this.#width < NARROW;
    const sizes = justifiedRows(
      cards.map((card) => card.shape),
      { width: this.#width, gap: isNarrow ? 8 : 14, height: isNarrow ? 150 : 210 },
    );
    cards.forEach((card, position) => card.resize(sizes[position]));
  }

  #places() {
    const places = new Map();
    if (wantsLessMotion()) return places;
    for (const [id, { element }] of this.#cards) places.set(id, element.getBoundingClientRect());
    return places;
  }

  #animateFrom(places) {
    if (wantsLessMotion()) return;
    for (const [id, { element }] of this.#cards) {
      const from = places.get(id);
      for (const animation of element.getAnimations()) animation.cancel();
      const to = element.getBoundingClientRect();
      if (to.top > innerHeight * 1.5 && (!from || from.top > innerHeight)) continue;
      if (!from) element.animate([{ opacity: 0 }, { opacity: 1 }], MOVE);
      else if (from.left !== to.left || from.top !== to.top) {
        const [x, y] = [from.left - to.left, from.top - to.top];
        element.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], MOVE);
      }
    }
  }

  #onKey(event) {
    const cards = [...this.#cards.values()];
    const at = cards.findIndex((card) => card.button === document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const target = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: this.#neighbour(cards, at, 1),
      ArrowUp: this.#neighbour(cards, at, -1),
      Home: 0,
      End: cards.length - 1,
    }[event.key];
    if (target === undefined || !cards[target]) return;
    event.preventDefault();
    const isVertical = event.key === "ArrowDown" || event.key === "ArrowUp";
    this.#column = isVertical ? { card: cards[target], middle: this.#middle(cards[at]) } : null;
    cards[target].button.focus();
  }

  // Where a walk up and down goes along: where it began, so that down and up again ends there.
  #middle(card) {
    return this.#column?.card === card ? this.#column.middle : middleOf(card);
  }

  // The card of the next row that lies nearest in the vertical.
  #neighbour(cards, at, direction) {
    const ownTop = cards[at].element.offsetTop;
    const middle = this.#middle(cards[at]);
    let best = -1;
    let rowTop = null;
    let bestAway = Infinity;
    for (let other = at + direction; cards[other]; other += direction) {
      const top = cards[other].element.offsetTop;
      if (top === ownTop) continue;
      rowTop ??= top;
      if (top !== rowTop) break;
      const away = Math.abs(middleOf(cards[other]) - middle);
      if (away < bestAway) [best, bestAway] = [other, away];
    }
    return best;
  }
}

// Where a card lies once it has stopped moving: what is seen of it may still be on its way.
function middleOf({ element }) {
  return element.offsetLeft + element.offsetWidth / 2;
}
