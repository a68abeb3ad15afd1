// What the page says where pictures alone would mislead: nothing matches, nothing is there, something is broken.

import { byId, make } from "./dom.js";
import { percent } from "./scores.js";

/** Show a notice above the gallery; null removes it. */
export function showNotice(notice) {
  byId("notice").replaceChildren(...(notice ? [notice] : []));
}

/** No hit clears the level: said before the closest ones are shown. */
export function nothingMatches(query, answer) {
  const what = query.words.trim() ? `“${shortened(query.words.trim())}”` : "this query";
  const rate = answer.false_accept_rate;
  const howSure =
    typeof rate === "number"
      ? `The level is set so that a query about something that is not here passes in ${percent(rate)} of cases.`
      : "No picture stands out from what any query finds.";
  const closest = answer.hits.length ? "The closest pictures follow; take them as that." : "";
  return notice(`Nothing here matches ${what}`, `${howSure} ${closest}`.trim());
}

/** The collection holds nothing. */
export function noPictures(onAdd) {
  return notice("No pictures yet", "Add some, and find them again by words, by a picture, or by a sketch.", {
    label: "Add pictures",
    act: onAdd,
  });
}

/** The filters (or the level of confidence) leave nothing. */
export function nothingPasses(query, { onClearFilters, onAllowUnsure }) {
  if (Object.keys(query.filters).length) {
    return notice("No picture passes these filters", "Loosen or clear them to see more.", {
      label: "Clear the filters",
      act: onClearFilters,
    });
  }
  if (query.onlyConfident) {
    return notice("No confident match", "Only confident matches are shown, and there is none.", {
      label: "Show the closest pictures",
      act: onAllowUnsure,
    });
  }
  return notice("No pictures found", "Everything that came near was excluded.");
}

/** A picture of the query is not in this browser. */
export function pictureIsElsewhere(onRemove) {
  return notice(
    "This link’s picture is not in this browser",
    "A picture that somebody searched by stays in their own browser. Drop the picture here to search by it.",
    { label: "Remove it from the query", act: onRemove },
  );
}

/** The service refused or did not answer. */
export function failure(error, onRetry) {
  const isAnswer = error.status >= 400 && error.status < 500 && error.status !== 429;
  const reference = error.requestId ? ` (request ${error.requestId})` : "";
  const title = error.title || (isAnswer ? "That did not work" : "The service does not answer");
  const text = isAnswer ? error.message : error.message + reference;
  return notice(title, text, { label: "Try again", act: onRetry }, "is-failure");
}

function notice(title, text, action = null, extraClass = "") {
  return make(
    "div",
    { class: `notice ${extraClass}`.trim() },
    make("h2", { text: title }),
    make("p", { text }),
    action ? make("button", { class: "button", type: "button", text: action.label, on: { click: action.act } }) : null,
  );
}

function shortened(text) {
  return text.length > 90 ? `${text.slice(0, 88)}…` : text;
}
