// What is looked for: one frozen value, its form in the address, and its form as a request.
//
// {
//   words: "two stools",
//   terms: [{kind: "image", id} | {kind: "picture", key} | {kind: "sketch", strokes}], each with `counts` (weight),
//   without: [{kind: "words", words} | {kind: "image", id}],
//   weight: 0..1, or null for the model's own,
//   filters: {field: {values: [...]} | {min, max}},
//   onlyConfident: false,
//   shown: the id of the picture in the detail view, or null
// }

import { packStrokes, unpackStrokes } from "./strokes.js";

export const EMPTY = Object.freeze({
  words: "",
  terms: [],
  without: [],
  weight: null,
  filters: {},
  onlyConfident: false,
  shown: null,
});

/** `query` with some parts replaced. */
export function withParts(query, parts) {
  return Object.freeze({ ...query, ...parts });
}

/** Whether there is nothing to search by, so that the collection is shown as it is. */
export function isEmpty(query) {
  return query.words.trim() === "" && query.terms.length === 0;
}

/** What two queries must share for their results to be the same. */
export function sameResults(left, right) {
  return toFragment({ ...left, shown: null }) === toFragment({ ...right, shown: null });
}

/** The part of the address behind `#`. It stays in the browser, so that words never stand in a server's log. */
export function toFragment(query) {
  const parameters = new URLSearchParams();
  if (query.words) parameters.set("q", query.words);
  for (const term of query.terms) parameters.append(...termParameter(term));
  for (const exclusion of query.without) {
    if (exclusion.kind === "words") parameters.append("not", exclusion.words);
    else parameters.append("unlike", exclusion.id);
  }
  if (query.weight !== null) parameters.set("w", String(Math.round(query.weight * 100) / 100));
  if (Object.keys(query.filters).length) parameters.set("filter", JSON.stringify(query.filters));
  if (query.onlyConfident) parameters.set("confident", "1");
  if (query.shown !== null) parameters.set("show", query.shown);
  return parameters.toString();
}

const COUNTED = /^(0\.5|1|2)\*/;

function termParameter(term) {
  const [name, body] = {
    image: () => ["like", term.id],
    picture: () => ["picture", term.key],
    sketch: () => ["sketch", packStrokes(term.strokes)],
  }[term.kind]();
  return [name, term.counts !== 1 || COUNTED.test(body) ? `${term.counts}*${body}` : body];
}

/** Read `toFragment`'s form; parts that make no sense are left out, since anybody may write an address. */
export function fromFragment(fragment) {
  const parameters = new URLSearchParams(fragment.replace(/^#/, ""));
  const query = { ...EMPTY, terms: [], without: [] };
  for (const [name, value] of parameters) {
    if (name === "q") query.words = value;
    else if (name === "like" || name === "picture" || name === "sketch") query.terms.push(readTerm(name, value));
    else if (name === "not" && value.trim()) query.without.push({ kind: "words", words: value });
    else if (name === "unlike" && value) query.without.push({ kind: "image", id: value });
    else if (name === "w") query.weight = readWeight(value);
    else if (name === "filter") query.filters = readFilters(value);
    else if (name === "confident") query.onlyConfident = value === "1";
    else if (name === "show") query.shown = value || null;
  }
  query.terms = query.terms.filter((term) => term !== null);
  return Object.freeze(query);
}

function readTerm(name, value) {
  const counts = Number(COUNTED.exec(value)?.[1] ?? 1);
  const body = value.replace(COUNTED, "");
  if (!body) return null;
  if (name === "like") return { kind: "image", id: body, counts };
  if (name === "picture") return { kind: "picture", key: body, counts };
  const strokes = unpackStrokes(body);
  return strokes.length ? { kind: "sketch", strokes, counts } : null;
}

function readWeight(value) {
  const weight = Number(value);
  return value !== "" && weight >= 0 && weight <= 1 ? weight : null;
}

function readFilters(value) {
  try {
    const filters = JSON.parse(value);
    return filters && typeof filters === "object" && !Array.isArray(filters) ? filters : {};
  } catch {
    return {};
  }
}

/** The key under which `filters` holds a field of `GET /fields`, whose name is a list where its keys have dots. */
export function filterKey(name) {
  return typeof name === "string" ? name : JSON.stringify(name);
}

function fieldOf(key) {
  if (!key.startsWith("[")) return key;
  try {
    const name = JSON.parse(key);
    return Array.isArray(name) ? name : key;
  } catch {
    return key; // a name that begins with a bracket
  }
}

/** The condition on metadata as `POST /search` takes it, or null. */
export function toCondition(filters) {
  const conditions = Object.entries(filters).map(([key, { values, min, max }]) => {
    const field = fieldOf(key);
    if (values) return { field, in: values };
    const range = { field };
    if (typeof min === "number") range.gte = min;
    if (typeof max === "number") range.lte = max;
    return range;
  });
  if (conditions.length === 0) return null;
  return conditions.length === 1 ? conditions[0] : { all: conditions };
}

/**
 * The body of `POST /search`, without `limit` and `cursor`.
 *
 * `encode(term)` resolves to the bytes of a picture or sketch in base64.
 */
export async function toRequest(query, encode) {
  const terms = query.words.trim() ? [{ text: query.words.trim(), weight: 1 }] : [];
  for (const term of query.terms) terms.push({ ...(await requestTerm(term, encode)), weight: term.counts });
  const body = terms.length === 1 ? withoutWeight(terms[0]) : { query: terms };
  const negative = query.without.map((exclusion) =>
    exclusion.kind === "words" ? { text: exclusion.words } : { image_id: exclusion.id },
  );
  if (negative.length) body.negative = negative;
  if (query.weight !== null) body.structure_weight = query.weight;
  const condition = toCondition(query.filters);
  if (condition) body.filter = condition;
  if (query.onlyConfident) body.only_confident = true;
  return body;
}

function withoutWeight({ weight, ...term }) {
  return term;
}

async function requestTerm(term, encode) {
  if (term.kind === "image") return { image_id: term.id };
  if (term.kind === "picture") return { image: await encode(term) };
  return { sketch: await encode(term) };
}
