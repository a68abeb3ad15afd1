"""Loads the spaCy pipeline that the syntactic filter and the chunker parse with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

BUNDLED = "bundled"
MAX_CHARACTERS = 100_000_000  # spaCy's own limit is a guard for its larger models
NEEDED = ("parser",)


class PipelineError(RuntimeError):
    """The named spaCy pipeline cannot be loaded, or lacks what the caption filter needs."""


def load_pipeline(name: str) -> Language:
    """Load a spaCy pipeline with a tagger and a parser; spaCy is imported here, not before.

    Args:
        name: ``"bundled"``, the name of an installed pipeline such as ``en_core_web_sm``, or the path of one.

    Raises:
        PipelineError: If it is not there, or cannot tag and parse.
    """
    try:
        import spacy
    except ImportError as error:
        raise PipelineError(
            "the syntactic caption filter needs spaCy: install it, or use the kind 'lexicon'"
        ) from error
    source = _bundled_folder() if name == BUNDLED else name
    try:
        nlp = spacy.load(source, exclude=["ner", "lemmatizer", "textcat"])
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"the spaCy pipeline {name!r} cannot be loaded ({error}): "
            "install it, name another one, or use the kind 'lexicon'"
        ) from error
    missing = [part for part in NEEDED if part not in nlp.pipe_names]
    if missing:
        raise PipelineError(f"the spaCy pipeline {name!r} has {nlp.pipe_names}, but captions need also {missing}")
    nlp.max_length = MAX_CHARACTERS
    return nlp


class Parser:
    """A loaded pipeline; parsing takes turns, because spaCy's vocabulary grows while it parses."""

    def __init__(self, name: str = BUNDLED) -> None:
        self.name = name
        self._nlp = load_pipeline(name)
        self._turn = Lock()

    def __reduce__(self) -> tuple[type[Parser], tuple[str]]:
        """Copied into another process, it loads its pipeline there."""
        return Parser, (self.name,)

    def parse(self, texts: Iterable[str]) -> list[Doc]:
        """Tag and parse each text."""
        with self._turn:
            return list(self._nlp.pipe(texts))


def _bundled_folder() -> Path:
    return Path(str(resources.files(__package__) / "pipeline_en"))
