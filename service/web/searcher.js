// When to search: soon after the last key, one search at a time, and always the newest query last.

export class Searcher {
  #timer = null;
  #isRunning = false;
  #isStale = false;

  /**
   * `run()` searches for the current query and shows the answer; it handles its own errors. `onBusy(isBusy)`: what is
   * shown is no longer, or is again, the answer to the current query.
   */
  constructor(run, onBusy) {
    this.run = run;
    this.onBusy = onBusy;
  }

  /** Search after a pause of this many milliseconds without another call. */
  after(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.now(), milliseconds);
    this.onBusy(true);
  }

  /**
   * Search now, or as soon as the search on its way is answered. Searches are not aborted: while a slider moves, each
   * answer is shown, and the last one is for where the slider stopped.
   */
  async now() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#isRunning) {
      this.#isStale = true;
      return;
    }
    this.#isRunning = true;
    this.onBusy(true);
    try {
      do {
        this.#isStale = false;
        await this.run();
      } while (this.#isStale);
    } finally {
      this.#isRunning = false;
      if (this.#timer === null) this.onBusy(false);
    }
  }

  /** Whether a newer query waits for the search on its way, whose answer is then only an intermediate one. */
  get isStale() {
    return this.#isStale;
  }
}
