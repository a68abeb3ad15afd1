"""The seam of the caption filters, and the one place that builds them from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import JsonValue

from structxlip.captions.lexicon import LexiconFilter
from structxlip.captions.pipeline import BUNDLED
from structxlip.captions.syntactic import SyntacticFilter

KINDS = ("lexicon", "syntactic", "none")


class CaptionFilter(Protocol):
    """Turns a caption into its structural text."""

    def structural_text(self, text: str) -> str:
        """What is left of ``text`` without its appearance words; never empty for a text that is not empty."""
        ...

    def config(self) -> dict[str, JsonValue]:
        """The config from which `build_caption_filter` makes an equal filter."""
        ...


class NoFilter:
    """Leaves captions as they are."""

    def structural_text(self, text: str) -> str:
        """The text itself."""
        return text

    def config(self) -> dict[str, JsonValue]:
        """What `build_caption_filter` needs to make this filter again."""
        return {"kind": "none"}


def build_caption_filter(config: Mapping[str, JsonValue]) -> CaptionFilter:
    """Build the filter that a checkpoint or a training config names.

    Args:
        config: ``{"kind": "lexicon"}``, ``{"kind": "none"}``, or ``{"kind": "syntactic", "pipeline": NAME}``, where
        ``NAME`` is
            ``"bundled"`` (the default), an installed spaCy pipeline, or the path of one.

    Raises:
        ValueError: If the kind or another key is unknown.
        PipelineError: If a syntactic filter names a pipeline that cannot be loaded.
    """
    kind = config.get("kind")
    allowed = {"kind", "pipeline"} if kind == "syntactic" else {"kind"}
    if kind not in KINDS:
        raise ValueError(f"the caption filter's kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if unknown := sorted(set(config) - allowed):
        raise ValueError(f"a caption filter of kind {kind!r} knows the keys {sorted(allowed)}, got also {unknown}")
    if kind == "syntactic":
        pipeline = config.get("pipeline", BUNDLED)
        if not isinstance(pipeline, str):
            raise ValueError(f"the caption filter's pipeline must be a name, got {pipeline!r}")
        return SyntacticFilter(pipeline)
    return LexiconFilter() if kind == "lexicon" else NoFilter()
