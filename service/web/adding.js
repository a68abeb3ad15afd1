// Adding pictures: a few requests at a time, progress for each file, and an error that costs one file alone.

import { byId, make } from "./dom.js";

const REQUESTS_AT_ONCE = 2;
const FILES_A_REQUEST = 4;
const BYTES_A_REQUEST = 16 * 1024 * 1024;
const MAX_TRIES = 6;
const MAX_LISTED = 400;

const OUTCOMES = { created: "added", replaced: "replaced", unchanged: "already there" };

export class AddingSheet {
  #waiting = [];
  #numRunning = 0;
  #num = { all: 0, done: 0, failed: 0 };

  /** `onAdded()` is called when a round of files has come to its end and some of them are new. */
  constructor(api, onAdded) {
    this.api = api;
    this.onAdded = onAdded;
    this.hasNew = false;
    this.dialog = byId("adding");
    this.list = byId("adding-list");
    this.maxFileBytes = Infinity;
    byId("open-adding").addEventListener("click", () => this.open());
    byId("adding-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    const input = byId("adding-files");
    input.addEventListener("change", () => {
      this.add([...input.files]);
      input.value = "";
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  open() {
    this.dialog.showModal();
  }

  /** Say and hold what the service takes. */
  setLimits(limits) {
    this.maxFileBytes = limits.max_file_bytes ?? Infinity;
    const megabytes = Math.round(this.maxFileBytes / 1024 / 1024);
    byId("adding-limits").textContent = `JPEG, PNG, WebP, GIF, BMP or TIFF, up to ${megabytes} MB each`;
  }

  /** Queue files. */
  add(files) {
    if (this.#waiting.length === 0 && this.#numRunning === 0) this.#startRound();
    for (const file of files) {
      const entry = { file, row: this.#row(file), sent: 0, tries: 0 };
      this.#num.all += 1;
      if (file.size > this.maxFileBytes) {
        // Not sent at all: the service would read and refuse it.
        this.#fail(entry, `${size(file.size)} are more than the ${size(this.maxFileBytes)} that the service takes.`);
      } else this.#waiting.push(entry);
    }
    this.#showTotal();
    this.#pump();
  }

  #startRound() {
    this.#num = { all: 0, done: 0, failed: 0 };
    this.hasNew = false;
    this.list.replaceChildren();
    byId("adding-total").hidden = false;
  }

  #row(file) {
    const state = make("span", { class: "adding-state", text: "waiting" });
    const name = make("span", { class: "adding-name", text: file.webkitRelativePath || file.name });
    const element = make("li", { class: "adding-file" }, name, state, make("span", { class: "adding-bar", "aria-hidden": "true" }));
    if (this.list.childElementCount < MAX_LISTED) this.list.append(element);
    return { element, state };
  }

  #pump() {
    while (this.#numRunning < REQUESTS_AT_ONCE && this.#waiting.length) {
      this.#numRunning += 1;
      this.#send(this.#nextBatch()).finally(() => {
        this.#numRunning -= 1;
        this.#pump();
        if (this.#numRunning === 0 && this.#waiting.length === 0) this.#endRound();
      });
    }
  }

  #nextBatch() {
    const batch = [this.#waiting.shift()];
    let bytes = batch[0].file.size;
    while (batch.length < FILES_A_REQUEST && this.#waiting.length && bytes + this.#waiting[0].file.size <= BYTES_A_REQUEST) {
      bytes += this.#waiting[0].file.size;
      batch.push(this.#waiting.shift());
    }
    return batch;
  }

  async #send(batch) {
    const files = batch.map((entry) => entry.file);
    const records = files.map((file) => ({ metadata: { path: file.webkitRelativePath || file.name } }));
    try {
      const answer = await this.api.add(files, records, (sent) => this.#progress(batch, sent));
      answer.items.forEach((item, position) => this.#finish(batch[position], item));
    } catch (error) {
      await this.#retryOrFail(batch, error);
    }
    this.#showTotal();
  }

  // The service is busy (429, 503) or the connection broke: what was stored is `unchanged` the next time.
  async #retryOrFail(batch, error) {
    const isPassing = [0, 429, 503].includes(error.status);
    const again = batch.filter((entry) => isPassing && ++entry.tries < MAX_TRIES);
    for (const entry of batch) {
      if (again.includes(entry)) this.#say(entry, error.status ? "the service is busy, waiting" : "no connection, trying again");
      else this.#fail(entry, error.message);
    }
    if (again.length === 0) return;
    const backoffSeconds = error.retryAfterSeconds ?? 2 ** again[0].tries / 2;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(20, backoffSeconds) * (0.8 + 0.4 * Math.random())));
    this.#waiting.unshift(...again);
  }

  // Bytes sent belong to the files in their order; the parts' own headers are too small to matter.
  #progress(batch, sent) {
    let left = sent;
    for (const entry of batch) {
      entry.sent = Math.max(0, Math.min(entry.file.size, left));
      left -= entry.file.size;
      const share = entry.file.size ? entry.sent / entry.file.size : 1;
      entry.row.element.style.setProperty("--sent", String(share));
      this.#say(entry, share < 1 ? `${Math.floor(share * 100)} %` : "reading it");
    }
    this.#showTotal();
  }

  #finish(entry, item) {
    if (item.status === "failed") {
      this.#fail(entry, item.problem?.detail ?? "It was not taken.");
      return;
    }
    if (item.status !== "unchanged") this.hasNew = true;
    const resembled = (item.resembles ?? []).map(({ watchlist, id }) => `${id} of the watch list ${watchlist}`);
    const resembles = resembled.length ? `; it resembles ${resembled.join(" and ")}` : "";
    entry.row.element.classList.add("is-done");
    entry.row.element.classList.toggle("is-watched", resembled.length > 0);
    this.#say(entry, OUTCOMES[item.status] + resembles);
    this.#count("done");
  }

  #fail(entry, reason) {
    entry.row.element.classList.add("is-failed");
    if (!entry.row.element.isConnected) this.list.append(entry.row.element); // failures are listed always
    this.#say(entry, reason);
    this.#count("failed");
  }

  #count(outcome) {
    this.#num[outcome] += 1;
  }

  #say(entry, text) {
    entry.row.state.textContent = text;
  }

  #showTotal() {
    const { all, done, failed } = this.#num;
    byId("adding-progress").value = all ? (done + failed) / all : 0;
    const failures = failed ? `, ${failed} not taken` : "";
    byId("adding-summary").textContent = `${done} of ${all} added${failures}`;
  }

  #endRound() {
    this.#showTotal();
    if (this.hasNew) this.onAdded();
  }
}

function size(bytes) {
  return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KB` : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}
