"""One search: hits with their scores and confidence, less what a negative leaves out, and whether anything matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index.collection import Collection, ImageRecord, SearchHit
from index.filters import Filter
from service.search.negatives import Exclusion
from service.search.queries import TwoViewQuery
from structxlip.calibration import Judgement, MatchCalibration

# Pages looked at to fill one: with more pictures left out than this bears, the page stays short and says so.
MAX_ROUNDS = 24
# Hits of a question that counts as plain: reading their records takes longer than finding them.
MOST_PLAIN = 50


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, and how the answer is cut.

    Attributes:
        query: The query, penalties of its negatives included.
        exclusions: What leaves hits out.
        limit: Hits wanted.
        cursor: From the page before.
        filter: Metadata condition that every hit meets.
        min_score: Hits below are left out.
        only_confident: Hits below the calibrated level are left out.
    """

    query: TwoViewQuery
    exclusions: tuple[Exclusion, ...] = ()
    limit: int = 10
    cursor: str | None = None
    filter: Filter | None = None
    min_score: float | None = None
    only_confident: bool = False

    @property
    def is_plain(self) -> bool:
        """Nothing about it takes more than the nearest few: no condition has to be evaluated, no page be refilled."""
        is_bounded = self.min_score is not None or self.only_confident
        return not self.exclusions and self.filter is None and not is_bounded and self.limit <= MOST_PLAIN


@dataclass(frozen=True, slots=True)
class Hit:
    """A found picture; ``score = (1 − w) · appearance + w · structure``."""

    record: ImageRecord
    score: float
    appearance: float
    structure: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first.

    Attributes:
        hits: Of this page.
        cursor: Where the next page starts; ``None`` after the last hit.
        no_match: Whether nothing in the collection clears the level; ``None`` without a calibration.
        false_accept_rate: What the level was set for; ``None`` without a calibration.
        num_excluded: Candidates that a negative left out on the way to this page.
        warnings: What the caller should know.
    """

    hits: Sequence[Hit]
    cursor: str | None
    no_match: bool | None
    false_accept_rate: float | None
    num_excluded: int
    warnings: tuple[str, ...] = ()


def find(
    collection: Collection, calibration: MatchCalibration | None, question: Question, *, wait: bool = True
) -> Answer:
    """Search a collection.

    Args:
        collection: What is searched.
        calibration: Of the model; hits have no confidence without one, and `only_confident` may not be asked for.
        question: What is looked for.
        wait: Whether to wait, if need be, while a change is brought into the collection.

    Raises:
        WouldWaitError: If it would have to wait, and may not.
    """
    judgement = None if calibration is None else judge(collection, calibration, question)
    least = question.min_score
    if question.only_confident:
        assert judgement is not None, "the caller refuses this without a calibration"
        least = judgement.min_score if least is None else max(least, judgement.min_score)
    kept, cursor, num_excluded, warnings = _fill_page(collection, question, least, wait=wait)
    return Answer(
        hits=[_as_hit(hit, question.query, judgement) for hit in kept],
        cursor=cursor,
        no_match=None if judgement is None else not _has_match(collection, question, judgement, kept, wait=wait),
        false_accept_rate=None if calibration is None else calibration.false_accept_rate,
        num_excluded=num_excluded,
        warnings=warnings,
    )


def judge(
    collection: Collection,
    calibration: MatchCalibration,
    question: Question,
    *,
    false_accept_rate: float | None = None,
) -> Judgement:
    """Return what tells the query's matches, among as many pictures as are searched."""
    query = question.query
    num_images = collection.num_images if question.filter is None else collection.count(question.filter)
    return calibration.judge(
        query.appearance,
        query.structure,
        structure_weight=query.structure_weight,
        kind=query.kind,
        num_images=num_images,
        false_accept_rate=false_accept_rate,
    )


def _fill_page(
    collection: Collection, question: Question, least: float | None, *, wait: bool
) -> tuple[list[SearchHit], str | None, int, tuple[str, ...]]:
    """Take pages until enough hits are kept; each asks for what is missing, so that its cursor is the right one."""
    vector = question.query.vector()
    kept: list[SearchHit] = []
    cursor, num_excluded = question.cursor, 0
    for _ in range(MAX_ROUNDS):
        page = collection.search(
            vector, limit=question.limit - len(kept), cursor=cursor, filter=question.filter, min_score=least, wait=wait
        )
        passed = [hit for hit in page.items if not _is_excluded(hit, question.exclusions)]
        num_excluded += len(page.items) - len(passed)
        kept += passed
        cursor = page.cursor
        if cursor is None or len(kept) == question.limit:
            return kept, cursor, num_excluded, ()
    told = f"the negatives left out {num_excluded} candidates before the page was full; the cursor leads on"
    return kept, cursor, num_excluded, (told,)


def _is_excluded(hit: SearchHit, exclusions: Sequence[Exclusion]) -> bool:
    return any(exclusion.excludes(hit.appearance, hit.structure) for exclusion in exclusions)


def _has_match(
    collection: Collection, question: Question, judgement: Judgement, kept: Sequence[SearchHit], *, wait: bool
) -> bool:
    if question.cursor is None and (kept or question.min_score is None):
        return bool(kept) and judgement.is_match(kept[0].score)
    # A later page, or one that min_score emptied: the best hit is not on it.
    best = collection.search(question.query.vector(), limit=1, filter=question.filter, wait=wait).items
    return bool(best) and judgement.is_match(best[0].score)


def _as_hit(hit: SearchHit, query: TwoViewQuery, judgement: Judgement | None) -> Hit:
    appearance, structure = query.scores(hit.appearance, hit.structure)
    confidence = None if judgement is None else judgement.confidence(hit.score)
    return Hit(hit.record, hit.score, appearance, structure, confidence)
