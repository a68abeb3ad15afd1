"""What to look for, as the JSON that `POST /search` reads."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from structxlip.client.pictures import Picture, picture_bytes

Include = Literal["explanation"]
SketchKind = Literal["picture", "sketch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a query: exactly one of ``text``, ``image``, ``image_id`` and ``sketch``.

    Attributes:
        image: A picture, in any form that `picture_bytes` takes.
        image_id: A stored picture.
        sketch: A picture of strokes on any background.
        weight: How much it counts beside the other terms, above 0; of no meaning in a negative.
    """

    text: str | None = None
    image: Picture | None = field(default=None, repr=False)
    image_id: str | None = None
    sketch: Picture | None = field(default=None, repr=False)
    weight: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the term as the service reads it."""
        said = given(
            text=self.text,
            image=_base64(self.image),
            image_id=self.image_id,
            sketch=_base64(self.sketch),
        )
        return said if self.weight == 1.0 else {**said, "weight": self.weight}


Negative = str | Term | Sequence[str | Term]


def search_options(
    *,
    negative: Negative | None,
    structure_weight: float | None,
    limit: int,
    cursor: str | None,
    filter: Mapping[str, Any] | None,
    min_score: float | None,
    only_confident: bool,
    include: Iterable[Include],
) -> dict[str, Any]:
    """Return what a search says beside its query; what is left at its default is left out."""
    return given(
        negative=_negative(negative),
        structure_weight=structure_weight,
        limit=limit,
        cursor=cursor,
        filter=filter,
        min_score=min_score,
        only_confident=only_confident or None,
        include=list(include) or None,
    )


def given(**members: Any) -> dict[str, Any]:
    """Return those members that are not None: an earlier service knows nothing of the others."""
    return {name: value for name, value in members.items() if value is not None}


def _negative(negative: Negative | None) -> list[dict[str, Any]] | None:
    if negative is None:
        return None
    terms = [negative] if isinstance(negative, str | Term) else negative
    return [(Term(text=term) if isinstance(term, str) else term).to_json() for term in terms] or None


def _base64(picture: Picture | None) -> str | None:
    return None if picture is None else base64.b64encode(picture_bytes(picture)).decode("ascii")
