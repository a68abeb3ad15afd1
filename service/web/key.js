// The API key: asked for when the service wants one, kept for this tab, or on this device if the user says so.

import { byId } from "./dom.js";

const NAME = "api-key";

export class KeyPrompt {
  #key = null;
  #asking = null;

  constructor() {
    this.dialog = byId("key");
    this.#key = read(sessionStorage) ?? read(localStorage);
    // Without a key nothing works, so Escape does not close the question.
    this.dialog.addEventListener("cancel", (event) => event.preventDefault());
  }

  /** The key to send, or null. */
  current() {
    return this.#key;
  }

  /** Ask for a key because `refused` (a key, or null when none was sent) was not enough; many callers, one question. */
  ask(refused) {
    if (this.#key !== refused) return Promise.resolve(); // another request has asked since
    this.#asking ??= this.#question(refused).finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  #question(refused) {
    if (refused) byId("key-reason").textContent = "That key is not valid. Check it, or ask whoever runs this service.";
    const input = byId("key-value");
    input.value = "";
    this.dialog.showModal();
    input.focus();
    return new Promise((resolve) => {
      byId("key-form").addEventListener(
        "submit",
        () => {
          this.#key = input.value.trim();
          store(this.#key, byId("key-remember").checked);
          resolve();
        },
        { once: true },
      );
    });
  }
}

function read(storage) {
  try {
    return storage.getItem(NAME);
  } catch {
    return null; // storage is off
  }
}

function store(key, remember) {
  try {
    sessionStorage.setItem(NAME, key);
    if (remember) localStorage.setItem(NAME, key);
    else localStorage.removeItem(NAME);
  } catch {
    // Storage is off: the key lives as long as the page.
  }
}
