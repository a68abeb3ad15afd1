// Pictures in the page: those of the collection as <img> sources, and those that the user searches by.

import { serviceUrl } from "./api.js";
import { drawStrokes, PAPER } from "./strokes.js";

const MAX_BLOB_URLS = 400;
const MAX_KEPT_PICTURES = 30;
const QUERY_SIDE = 1024;
const SMALL_BYTES = 512 * 1024;
const SKETCH_SCALE = 0.512; // 512 x 384 pixels, more than any model of this kind reads

/** Gives <img> elements their source; with an API key by way of `fetch`, for an <img> cannot send one. */
export class ImageSources {
  #urls = new Map(); // path -> promise of a blob: URL, the oldest first

  constructor(api) {
    this.api = api;
  }

  async show(image, path) {
    if (image.dataset.path === path) return;
    image.dataset.path = path;
    if (this.api.keys.current() === null) {
      image.src = serviceUrl(path);
      return;
    }
    try {
      const url = await this.#blobUrl(path);
      if (image.dataset.path === path) image.src = url;
    } catch {
      image.dispatchEvent(new Event("error")); // as if the address itself had failed
    }
  }

  #blobUrl(path) {
    let url = this.#urls.get(path);
    if (!url) {
      url = this.api.blob(path).then((blob) => URL.createObjectURL(blob));
      this.#urls.set(path, url);
      url.catch(() => this.#urls.delete(path));
      if (this.#urls.size > MAX_BLOB_URLS) this.#forgetOldest();
    }
    return url;
  }

  #forgetOldest() {
    const [path, url] = this.#urls.entries().next().value;
    this.#urls.delete(path);
    url.then((address) => URL.revokeObjectURL(address), () => {});
  }
}

/** Pictures that queries are made of: kept in this browser by a key, so that the address and the back button find them. */
export class QueryPictures {
  #blobs = new Map();
  #encoded = new Map();
  #sketches = new WeakMap();

  /** Keep a file, scaled down where it is larger than any model looks at; resolves to its key. */
  async keep(file) {
    const blob = await scaledDown(file);
    const key = randomKey();
    this.#blobs.set(key, blob);
    await inDatabase("readwrite", (pictures) => pictures.put({ key, blob, keptAt: Date.now() }));
    await forgetOld();
    return key;
  }

  /** The picture of a key; null when it was chosen in another browser or is forgotten. */
  async find(key) {
    if (!this.#blobs.has(key)) {
      const entry = await inDatabase("readonly", (pictures) => pictures.get(key));
      if (!entry) return null;
      this.#blobs.set(key, entry.blob);
    }
    return this.#blobs.get(key);
  }

  /** A term's picture or sketch in base64. Throws `MissingPicture`. */
  async encode(term) {
    if (term.kind === "sketch") return this.#encodeSketch(term.strokes);
    if (!this.#encoded.has(term.key)) {
      const blob = await this.find(term.key);
      if (!blob) throw new MissingPicture();
      this.#encoded.set(term.key, await base64(blob));
    }
    return this.#encoded.get(term.key);
  }

  async #encodeSketch(strokes) {
    if (!this.#sketches.has(strokes)) this.#sketches.set(strokes, await base64(await sketchPicture(strokes)));
    return this.#sketches.get(strokes);
  }
}

/** The address names a picture that this browser does not have. */
export class MissingPicture extends Error {}

/** A sketch as a PNG. */
export function sketchPicture(strokes) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(PAPER.width * SKETCH_SCALE);
  canvas.height = Math.round(PAPER.height * SKETCH_SCALE);
  drawStrokes(canvas.getContext("2d"), strokes, SKETCH_SCALE);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function scaledDown(file) {
  if (file.size <= SMALL_BYTES) return file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file; // a kind that the browser does not read, and perhaps the service does
  }
  const scale = Math.min(1, QUERY_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the service shows what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.93));
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

// Not a hash of the bytes: `crypto.subtle` is missing on a plain http address other than localhost.
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

let database = null;

/** Run one step on the store of pictures; resolves to undefined where the browser keeps nothing (private windows). */
async function inDatabase(mode, step) {
  try {
    database ??= openDatabase();
    const pictures = (await database).transaction("pictures", mode).objectStore("pictures");
    return await settled(step(pictures));
  } catch {
    return undefined;
  }
}

function openDatabase() {
  const request = indexedDB.open("structxlip", 1);
  request.addEventListener("upgradeneeded", () => request.result.createObjectStore("pictures", { keyPath: "key" }));
  return settled(request);
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}

async function forgetOld() {
  const entries = (await inDatabase("readonly", (pictures) => pictures.getAll())) ?? [];
  entries.sort((left, right) => right.keptAt - left.keptAt);
  for (const { key } of entries.slice(MAX_KEPT_PICTURES)) await inDatabase("readwrite", (pictures) => pictures.delete(key));
}
