// The page: what it is made of, and what happens when the query changes.

import { AddingSheet } from "./adding.js";
import { Address } from "./address.js";
import { Api } from "./api.js";
import { Detail } from "./detail.js";
import { byId } from "./dom.js";
import { Filters } from "./filters.js";
import { Gallery } from "./gallery.js";
import { watchIncoming } from "./incoming.js";
import { KeyPrompt } from "./key.js";
import * as notices from "./notices.js";
import { ImageSources, MissingPicture, QueryPictures } from "./pictures.js";
import { isEmpty, sameResults, toCondition, toRequest, withParts, EMPTY } from "./query.js";
import { percent } from "./scores.js";
import { Searcher } from "./searcher.js";
import { Sketchpad } from "./sketchpad.js";
import { Exclusions, WeightSlider } from "./steering.js";
import { Terms } from "./terms.js";
import { installThemeButton } from "./theme-button.js";

const TYPING_MILLISECONDS = 80; // most keys of a word come closer than that
const PAGE_SIZE = 40;
const LOADING_RETRY_MILLISECONDS = 1500;

const keys = new KeyPrompt();
const api = new Api(keys);
const sources = new ImageSources(api);
const pictures = new QueryPictures();
const address = new Address(navigate);
const searcher = new Searcher(search, (isBusy) => byId("gallery").setAttribute("aria-busy", isBusy));
const gallery = new Gallery(byId("gallery"), sources, openDetail);
const words = byId("words");
const more = byId("more");

let query = address.read();
let found = { answer: null, query: null }; // what the gallery shows
let usedWeight = 0; // the weight of the last answer, or the model's own
let features = new Set();
let returnsToHistory = false; // closing the detail view goes back to where it was opened

const slider = new WeightSlider((weight) => change({ weight }, { burst: "weight" }));
const exclusions = new Exclusions({ sources, onChange: (without) => change({ without }) });
const filters = new Filters((chosen) => change({ filters: chosen }));
const terms = new Terms(byId("terms"), {
  sources,
  pictures,
  onChange: (changed) => change({ terms: changed }),
  onEditSketch: () => toggleSketch(true),
});
const sketchpad = new Sketchpad({ onChange: setSketch, onClose: () => toggleSketch(false) });
const adding = new AddingSheet(api, () => refreshCollection());
const detail = new Detail(api, sources, {
  close: detailClosed,
  step: stepDetail,
  similar: (id, weight) => change({ words: "", terms: [{ kind: "image", id, counts: 1 }], weight, shown: null }),
  exclude: (id) => change({ without: [...query.without, { kind: "image", id }], shown: null }),
  combine: (id) => change({ terms: [...query.terms, { kind: "image", id, counts: 1 }], shown: null }),
});

listen();
render();
start();

/** Ask what the service can do, then search. */
async function start() {
  try {
    const info = await api.info();
    features = new Set(info.features);
    usedWeight = info.model.default_structure_weight ?? 0;
    byId("gallery").dataset.fit = byId("detail").dataset.fit = info.model.preprocessing?.resize_mode ?? "squash";
    adding.setLimits(info.limits);
    offerFeatures(info);
    render();
  } catch (error) {
    notices.showNotice(notices.failure(error, start));
    return;
  }
  refreshCollection();
}

function offerFeatures(info) {
  byId("open-sketch").hidden = !features.has("sketch");
  byId("without-group").hidden = !features.has("negatives");
  byId("only-confident").hidden = !info.calibration?.is_calibrated;
  detail.features = { explain: features.has("explain"), exclude: features.has("negatives"), combine: features.has("weighted_queries") };
}

async function refreshCollection() {
  gallery.forget();
  searcher.now();
  if (!features.has("fields")) return;
  try {
    filters.offer((await api.fields()).fields);
  } catch {
    filters.offer([]); // filters are a convenience: the search itself says what is wrong
  }
}

/** The one way to change the query: everything on the page follows. */
function change(parts, { burst = null, after = 0 } = {}) {
  const next = withParts(query, parts);
  const hasNewResults = !sameResults(query, next);
  query = next;
  address.show(query, burst);
  render();
  if (!hasNewResults) return;
  if (after) searcher.after(after);
  else searcher.now();
}

/** The address changed: the back button, or somebody edited it. */
function navigate(next) {
  const hasNewResults = !sameResults(query, next);
  query = next;
  returnsToHistory = false;
  render();
  if (hasNewResults) searcher.now();
}

/** Bring the controls and the detail view to the query; the gallery follows the answer. */
function render() {
  if (words.value !== query.words) words.value = query.words;
  document.title = query.words.trim() ? `${query.words.trim()} · StructXLIP` : "StructXLIP search";
  terms.render(query);
  slider.render(query, usedWeight);
  exclusions.render(query);
  filters.render(query);
  byId("only-confident").setAttribute("aria-pressed", String(query.onlyConfident));
  sketchpad.render(query.terms.find((term) => term.kind === "sketch")?.strokes ?? []);
  renderDetail();
}

// Searching

async function search() {
  const asked = query;
  try {
    const answer = isEmpty(asked) ? await browse(asked, null) : await find(asked, null);
    if (searcher.isStale && !sameWords(asked, query)) return; // letters came since; a moved slider shows every step
    showAnswer(asked, answer);
  } catch (error) {
    showFailure(error);
  }
}

function sameWords(left, right) {
  return left.words === right.words && left.terms === right.terms;
}

async function find(asked, cursor) {
  const body = await toRequest(asked, (term) => pictures.encode(term));
  const answer = await api.search({ ...body, limit: PAGE_SIZE, ...(cursor ? { cursor } : {}) });
  return { ...answer, items: answer.hits, isSearch: true };
}

async function browse(asked, cursor) {
  const answer = await api.images({ limit: PAGE_SIZE, cursor, filter: toCondition(asked.filters) });
  return { ...answer, items: answer.images, isSearch: false };
}

function showAnswer(asked, answer) {
  found = { answer, query: asked };
  if (answer.isSearch) {
    usedWeight = answer.structure_weight;
    if (query.weight === null) slider.render(query, usedWeight);
  }
  gallery.list.classList.toggle("is-unsure", answer.no_match === true);
  gallery.show(answer.items, { weight: answer.structure_weight ?? 0 });
  more.hidden = !answer.cursor;
  byId("status").textContent = statusText(answer);
  byId("reading").textContent = readingText(asked, answer);
  notices.showNotice(noticeFor(asked, answer));
  renderDetail();
}

function noticeFor(asked, answer) {
  if (answer.no_match === true && answer.items.length) return notices.nothingMatches(asked, answer);
  if (answer.items.length) return null;
  if (!answer.isSearch && Object.keys(asked.filters).length === 0) return notices.noPictures(() => adding.open());
  if (answer.no_match === true && !asked.onlyConfident) return notices.nothingMatches(asked, answer);
  return notices.nothingPasses(asked, {
    onClearFilters: () => change({ filters: {} }),
    onAllowUnsure: () => change({ onlyConfident: false }),
  });
}

function statusText(answer) {
  const shown = gallery.items.length;
  if (!answer.isSearch) return shown ? `${answer.total} ${answer.total === 1 ? "picture" : "pictures"}, newest first` : "";
  if (shown === 0) return "No pictures found";
  const closest = answer.no_match === true ? "closest " : "";
  const excluded = answer.num_excluded ? `, ${answer.num_excluded} excluded` : "";
  const many = answer.cursor ? "The first " : "";
  const counted = `${many}${shown} ${closest}${shown === 1 ? "picture" : "pictures"}`;
  return `${counted}, best first${excluded} · ${Math.max(1, Math.round(answer.took_ms))} ms`;
}

function readingText(asked, answer) {
  const warnings = (answer.warnings ?? []).join(" ");
  if (warnings) return warnings;
  const isTold = answer.structural_text && answer.structure_weight > 0 && asked.terms.length === 0;
  return isTold ? `structure reads “${answer.structural_text}”` : "";
}

function showFailure(error) {
  if (error instanceof MissingPicture) {
    const others = query.terms.filter((term) => term.kind !== "picture");
    showNothing(notices.pictureIsElsewhere(() => change({ terms: others })));
    return;
  }
  if (!("status" in error)) throw error; // a mistake of ours belongs on the console
  showNothing(notices.failure(error, () => searcher.now()));
  if (error.status === 503 || error.status === 429) searcher.after(LOADING_RETRY_MILLISECONDS);
}

function showNothing(notice) {
  gallery.show([]);
  more.hidden = true;
  byId("status").textContent = "";
  byId("reading").textContent = "";
  notices.showNotice(notice);
}

async function showMore() {
  const { answer, query: asked } = found;
  more.disabled = true;
  try {
    const next = asked && answer.isSearch ? await find(asked, answer.cursor) : await browse(asked, answer.cursor);
    if (found.answer !== answer) return; // the query changed meanwhile
    found = { answer: { ...next, total: next.total ?? answer.total }, query: asked };
    const first = next.items[0]?.id;
    gallery.append(next.items, { weight: next.structure_weight ?? 0 });
    more.hidden = !next.cursor;
    byId("status").textContent = statusText(found.answer);
    if (first && document.activeElement === document.body) gallery.focus(first); // the button is gone: go on with what came
  } catch (error) {
    notices.showNotice(notices.failure(error, showMore));
  } finally {
    more.disabled = false;
  }
}

// The detail view

function openDetail(id) {
  returnsToHistory = true;
  change({ shown: id });
}

/** The user closed it; when the query closed it, there is nothing left to do. */
function detailClosed() {
  if (query.shown === null) return;
  const closed = query.shown;
  if (returnsToHistory) {
    query = withParts(query, { shown: null });
    address.back();
  } else change({ shown: null });
  returnsToHistory = false;
  gallery.focus(closed);
}

function stepDetail(direction) {
  const ids = gallery.items.map((item) => item.id);
  const next = ids[ids.indexOf(detail.shownId) + direction];
  if (next === undefined) return;
  query = withParts(query, { shown: next });
  address.replace(query);
  renderDetail();
}

async function renderDetail() {
  if (query.shown === null) {
    detail.close();
    return;
  }
  if (detail.shownId === query.shown) return;
  const wanted = query.shown;
  const items = gallery.items;
  const at = items.findIndex((item) => item.id === wanted);
  if (at < 0 && found.answer === null) return; // the results come first, and with them the scores
  try {
    const item = items[at] ?? (await api.image(wanted));
    if (query.shown !== wanted || detail.shownId === wanted) return;
    detail.show(item, {
      weight: usedWeight,
      sentence: sentenceFor(item),
      hasPrevious: at > 0,
      hasNext: at >= 0 && at < items.length - 1,
    });
  } catch (error) {
    notices.showNotice(notices.failure(error, renderDetail));
    change({ shown: null });
  }
}

/** What is explained on a picture: the words that found it, else its own caption. */
function sentenceFor(item) {
  const words = query.words.trim().normalize(); // as the service counts its letters
  if (words) return { text: words, title: "Why this picture" };
  return item.caption ? { text: item.caption, title: "Caption" } : null;
}

// What the user does

function listen() {
  words.addEventListener("input", () => change({ words: words.value }, { burst: "words", after: TYPING_MILLISECONDS }));
  byId("query-form").addEventListener("submit", (event) => {
    event.preventDefault();
    address.settle();
    searcher.now();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment of the address is the query's
    byId("results").focus();
  });
  document.querySelector(".brand").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    change({ ...EMPTY });
    words.focus();
  });
  more.addEventListener("click", showMore);
  byId("only-confident").addEventListener("click", () => change({ onlyConfident: !query.onlyConfident }));
  byId("show-edges").addEventListener("click", (event) => {
    const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", String(isOn));
    gallery.showEdges(isOn);
  });
  byId("open-sketch").addEventListener("click", () => toggleSketch(!sketchpad.isOpen));
  listenForPictures();
  installThemeButton();
}

function listenForPictures() {
  const input = byId("picture-file");
  byId("choose-picture").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    searchByPicture(input.files[0]);
    input.value = "";
  });
  watchIncoming(() =>
    adding.isOpen
      ? { text: "Drop to add to the collection", take: (files) => adding.add(files) }
      : { text: "Drop a picture to search by it", take: (files) => searchByPicture(files[0]) },
  );
}

async function searchByPicture(file) {
  if (!file) return;
  const key = await pictures.keep(file);
  const term = { kind: "picture", key, counts: 1 };
  // Words stay beside it where the service can search by both.
  const others = features.has("weighted_queries") ? query.terms.filter((other) => other.kind !== "picture") : [];
  change({ words: features.has("weighted_queries") ? query.words : "", terms: [...others, term], shown: null });
}

function setSketch(strokes) {
  const others = query.terms.filter((term) => term.kind !== "sketch");
  const counts = query.terms.find((term) => term.kind === "sketch")?.counts ?? 1;
  change({ terms: strokes.length ? [...others, { kind: "sketch", strokes, counts }] : others });
}

function toggleSketch(isOpen) {
  const button = byId("open-sketch");
  button.setAttribute("aria-expanded", String(isOpen));
  if (isOpen) sketchpad.open();
  else if (sketchpad.isOpen) sketchpad.close();
  else button.focus();
}
