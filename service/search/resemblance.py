"""Copies: pictures that look like another by their colours or by their lines, far more than chance allows.

A recoloured, greyscaled or inverted copy keeps its lines; a blurred one keeps its colours. So a picture is held against
others by appearance, by both and by structure, and the weight at which it stands out most decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from index.collection import Collection, ImageRecord, Vector
from service.search.queries import TwoViewQuery
from structxlip.calibration import MatchCalibration, QueryKind

PAGE = 500
# Two pictures more than 60 degrees apart are no copies, however little chance would give: among few pictures of a kind
# that is drawn in many ways, chance gives next to nothing.
LEAST_COPY_SCORE = 0.5


@dataclass(frozen=True, slots=True)
class Resemblance:
    """A stored picture that another one resembles.

    Attributes:
        record: Of the stored picture.
        score: At the structure weight at which it stands out most.
        structure_weight: That weight.
        confidence: Without a calibration ``None``.
    """

    record: ImageRecord
    score: float
    structure_weight: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class ResemblanceRules:
    """When a picture counts as a copy of another.

    Attributes:
        calibration: Of the model; ``None`` to go by `min_score`.
        structure_weights: Tried in turn.
        false_alarm_rate: Share of the pictures without a copy that may be taken for one.
        min_score: The score of a copy where there is no calibration.
    """

    calibration: MatchCalibration | None
    structure_weights: Sequence[float]
    false_alarm_rate: float
    min_score: float

    @classmethod
    def of_model(
        cls,
        calibration: MatchCalibration | None,
        *,
        structure_is_trained: bool,
        default_weight: float,
        false_alarm_rate: float,
        min_score: float,
    ) -> ResemblanceRules:
        """Return the rules for a model: an untrained structure is not asked."""
        weights = sorted({0.0, default_weight, 1.0}) if structure_is_trained else [0.0]
        return cls(calibration, weights, false_alarm_rate, min_score)

    def find(
        self, collection: Collection, appearance: Vector, structure: Vector, *, limit: int, besides: str | None = None
    ) -> list[Resemblance]:
        """Return the stored pictures that a picture resembles, the surest first.

        Args:
            collection: What is searched.
            appearance: The picture's unit vector `(D,)`.
            structure: Likewise.
            limit: Most pictures at each structure weight.
            besides: An id that does not count: the picture's own.
        """
        found: dict[str, Resemblance] = {}
        for weight in self.structure_weights:
            for each in self._find_at(collection, TwoViewQuery(appearance, structure, weight), limit, besides):
                known = found.get(each.record.id)
                if known is None or _sureness(each) > _sureness(known):
                    found[each.record.id] = each
        return sorted(found.values(), key=_sureness, reverse=True)

    def _find_at(
        self, collection: Collection, query: TwoViewQuery, limit: int, besides: str | None
    ) -> Iterator[Resemblance]:
        judgement = None
        if self.calibration is not None:
            judgement = self.calibration.judge(
                query.appearance,
                query.structure,
                structure_weight=query.structure_weight,
                kind=QueryKind.PICTURE,
                num_images=collection.num_images,
                false_accept_rate=self.false_alarm_rate,
            )
        least = self.min_score if judgement is None else max(judgement.min_score, LEAST_COPY_SCORE)
        for hit in collection.search(query.vector(), limit=limit + 1, min_score=least).items:
            if hit.record.id != besides:
                confidence = None if judgement is None else judgement.confidence(hit.score)
                yield Resemblance(hit.record, hit.score, query.structure_weight, confidence)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pictures that resemble each other, directly or by way of others.

    Attributes:
        records: Oldest first.
        least_score: Of the weakest link between two of them.
        least_confidence: Of the weakest link; without a calibration ``None``.
    """

    records: tuple[ImageRecord, ...]
    least_score: float
    least_confidence: float | None


def find_clusters(collection: Collection, rules: ResemblanceRules, *, limit: int = 20) -> list[Cluster]:
    """Return the clusters of a whole collection, the largest first; it takes a few searches for each picture.

    Args:
        collection: What is looked through.
        rules: When two pictures count as copies.
        limit: Copies looked at for each picture.
    """
    records: dict[str, ImageRecord] = {}
    links: list[tuple[str, Resemblance]] = []
    for record in all_records(collection):
        vectors = collection.vectors(record.id)
        if vectors is not None:  # deleted a moment ago
            records[record.id] = record
            links += [(record.id, each) for each in rules.find(collection, *vectors, limit=limit, besides=record.id)]
    groups = _Groups(records)
    links = [(image_id, link) for image_id, link in links if link.record.id in records]
    for image_id, link in links:
        groups.join(image_id, link.record.id)
    within: dict[str, list[Resemblance]] = {}
    for image_id, link in links:
        within.setdefault(groups.root(image_id), []).append(link)
    clusters = [
        Cluster(
            tuple(sorted((records[name] for name in groups.members(root)), key=lambda r: (r.created_at, r.id))),
            min(link.score for link in of_group),
            min((link.confidence for link in of_group if link.confidence is not None), default=None),
        )
        for root, of_group in within.items()
    ]
    return sorted(clusters, key=lambda cluster: (-len(cluster.records), cluster.records[0].id))


def all_records(collection: Collection) -> Iterator[ImageRecord]:
    """Yield every record, newest change first."""
    cursor = None
    while True:
        page = collection.list_images(limit=PAGE, cursor=cursor)
        yield from page.items
        cursor = page.cursor
        if cursor is None:
            return


class _Groups:
    """Disjoint sets of names."""

    def __init__(self, names: dict[str, ImageRecord]) -> None:
        self._above = {name: name for name in names}

    def root(self, name: str) -> str:
        while self._above[name] != name:
            self._above[name] = self._above[self._above[name]]
            name = self._above[name]
        return name

    def join(self, first: str, second: str) -> None:
        self._above[self.root(first)] = self.root(second)

    def members(self, root: str) -> list[str]:
        return [name for name in self._above if self.root(name) == root]


def _sureness(found: Resemblance) -> tuple[float, float]:
    """Rank by confidence, and by score where that is the same: near certainty it has no digits left."""
    return 0.0 if found.confidence is None else found.confidence, found.score
