// The service over HTTP: JSON, problem details, uploads with progress. The only module that knows addresses.

/** The service's root, also behind a proxy that serves it below a path. */
const ROOT = new URL("./", document.baseURI);

/** What the service (or the way to it) had to say against a request. */
export class ServiceError extends Error {
  constructor(message, { status = 0, title = "", retryAfterSeconds = null, requestId = null } = {}) {
    super(message);
    this.name = "ServiceError";
    this.status = status;
    this.title = title;
    this.retryAfterSeconds = retryAfterSeconds;
    this.requestId = requestId;
  }
}

/** An address of the service from a path such as the `links` of a hit. */
export function serviceUrl(path) {
  return new URL(path.replace(/^\//, ""), ROOT);
}

export class Api {
  /** `keys`: has `current()` (a key or null) and `ask(reason)` (resolves when there is a new one). */
  constructor(keys) {
    this.keys = keys;
  }

  info() {
    return this.json("GET", "info");
  }

  fields() {
    return this.json("GET", "fields");
  }

  search(body) {
    return this.json("POST", "search", body);
  }

  explain(body) {
    return this.json("POST", "explain", body);
  }

  image(id) {
    return this.json("GET", `images/${encodeURIComponent(id)}`);
  }

  images({ limit, cursor = null, filter = null }) {
    const parameters = new URLSearchParams({ limit: String(limit) });
    if (cursor) parameters.set("cursor", cursor);
    if (filter) parameters.set("filter", JSON.stringify(filter));
    return this.json("GET", `images?${parameters}`);
  }

  /** Bytes of a picture's file, thumbnail or edge map. */
  async blob(path) {
    const response = await this.send(path, { method: "GET" });
    return response.blob();
  }

  async json(method, path, body) {
    const options = { method };
    if (body !== undefined) {
      options.headers = { "Content-Type": "application/json" };
      options.body = JSON.stringify(body);
    }
    const response = await this.send(path, options);
    return response.json();
  }

  /** Send a request; a missing or refused key is asked for, and the request sent again. */
  async send(path, options) {
    for (;;) {
      const key = this.keys.current();
      const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
      let response;
      try {
        response = await fetch(serviceUrl(path), { ...options, headers });
      } catch {
        throw new ServiceError("The service does not answer. Is it still running?");
      }
      if (response.status === 401) {
        await this.keys.ask(key);
        continue;
      }
      if (!response.ok) {
        const retryAfter = response.headers.get("Retry-After");
        throw problemOf(response.status, await response.text(), retryAfter);
      }
      return response;
    }
  }

  /**
   * Add files in one request. `onProgress(bytesSent, bytesTotal)`; resolves to the answer of `POST /index`.
   * An XMLHttpRequest, for `fetch` does not tell how much of a body is sent.
   */
  async add(files, records, onProgress) {
    for (;;) {
      const key = this.keys.current();
      const response = await this.#upload(files, records, key, onProgress);
      if (response.status === 401) await this.keys.ask(key);
      else if (response.status >= 200 && response.status < 300) return JSON.parse(response.responseText);
      else throw problemOf(response.status, response.responseText, response.getResponseHeader("Retry-After"));
    }
  }

  #upload(files, records, key, onProgress) {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    form.append("records", JSON.stringify(records));
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", serviceUrl("index"));
      if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
      request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
      request.addEventListener("load", () => resolve(request));
      request.addEventListener("error", () => reject(new ServiceError("The connection broke while the files were sent.")));
      request.send(form);
    });
  }
}

function problemOf(status, text, retryAfter) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Not ours: a proxy's page, for example. Its status must do.
  }
  const details = (problem.errors ?? []).map((error) => error.message).filter(Boolean);
  return new ServiceError([problem.detail || `The service answered with status ${status}.`, ...details].join(" "), {
    status,
    title: problem.title ?? "",
    retryAfterSeconds: retryAfter === null ? null : Number(retryAfter) || 1,
    requestId: problem.request_id ?? null,
  });
}
