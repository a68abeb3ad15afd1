// The query in the address bar: shareable, and the back button goes to the query before.

import { fromFragment, toFragment } from "./query.js";

const BURST_MILLISECONDS = 2500;

export class Address {
  #burst = null;
  #burstEnds = 0;
  #isReturning = false;
  #waiting = null; // what to show when the way back is done

  /** `onNavigate(query)` is called when the user goes back or forth, or edits the address. */
  constructor(onNavigate) {
    addEventListener("popstate", () => {
      this.settle();
      this.#isReturning = false;
      if (this.#waiting === null) onNavigate(this.read());
      else this.show(this.#waiting);
      this.#waiting = null;
    });
  }

  /** Go to the entry before. The browser takes a moment for it; what is shown meanwhile comes on top of that entry. */
  back() {
    this.#isReturning = true;
    history.back();
  }

  /** The query of the current address. */
  read() {
    return fromFragment(location.hash);
  }

  /**
   * Show a query in the address.
   *
   * Changes of one `burst` (letters typed, a slider moved) that follow each other quickly share one entry of the
   * history; without a burst each change is an entry of its own.
   */
  show(query, burst = null) {
    if (this.#isReturning) {
      this.#waiting = query;
      return;
    }
    const fragment = toFragment(query);
    if (fragment === location.hash.replace(/^#/, "")) return;
    const address = fragment ? `#${fragment}` : location.pathname + location.search;
    const now = performance.now();
    const isSameBurst = burst !== null && burst === this.#burst && now < this.#burstEnds;
    if (isSameBurst) history.replaceState(history.state, "", address);
    else history.pushState({ isOurs: true }, "", address);
    this.#burst = burst;
    this.#burstEnds = now + BURST_MILLISECONDS;
  }

  /** Change the current entry of the history. */
  replace(query) {
    const fragment = toFragment(query);
    history.replaceState(history.state, "", fragment ? `#${fragment}` : location.pathname + location.search);
  }

  /** Whatever comes next is an entry of its own. */
  settle() {
    this.#burst = null;
  }
}
