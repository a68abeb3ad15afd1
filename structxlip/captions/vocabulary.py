"""The appearance vocabulary: `appearance.toml`, read once for each filter."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from typing import Any

Words = frozenset[str]


@dataclass(frozen=True)
class Vocabulary:
    """Word classes by name; `appearance.toml` explains each."""

    hues: Words
    shades: Words
    open_shades: Words
    tints: Words
    things: Words
    painted: Words
    materials: Words
    qualities: Words
    degrees: Words
    colour_nouns: Words
    colour_participles: Words
    whole_endings: Words
    structure_adjectives: Words
    function_words: Words
    finite_verbs: Words
    plain_verbs: Words
    copulas: Words
    linking: Words
    copula_adverbs: Words
    relatives: Words
    participles_before_colour: Words
    made: Words
    measures: Words
    determiners: Words
    adjective_participles: Words
    compounds: Mapping[str, Words]
    object_endings: Mapping[str, Words]

    @cached_property
    def openers(self) -> Words:
        """The words without a hyphen that an appearance can begin with: most words of a caption are none of them."""
        nouns = self.colour_nouns | self.tints | self.things | self.materials
        return self.hues | self.shades | self.qualities | self.degrees | nouns


def load_vocabulary() -> Vocabulary:
    """Read the vocabulary that is packed with this module."""
    raw = tomllib.loads((resources.files(__package__) / "appearance.toml").read_text(encoding="utf-8"))
    classes: dict[str, Any] = {
        name: frozenset(table["words"].split()) for name, table in raw.items() if "words" in table
    }
    for name in ("compounds", "object_endings"):
        classes[name] = {word: frozenset(others.split()) for word, others in raw[name].items()}
    names = {field.name for field in fields(Vocabulary)}
    if names != set(classes):
        raise ValueError(f"appearance.toml and Vocabulary differ in {sorted(names ^ set(classes))}")
    return Vocabulary(**classes)
