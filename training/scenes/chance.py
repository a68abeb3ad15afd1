"""Random draws that stay the same on every machine and in every release of Python and NumPy."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """A stream of draws named by the things it depends on.

    Only ``random.Random.random`` is used: it is the one method whose sequence Python promises to keep, where
    ``choice`` and ``shuffle`` may change between releases and would silently change the data set.

    Args:
        key: What the stream depends on, such as version, split, index and seed.
    """

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random  # noqa: S311

    def uniform(self, low: float, high: float) -> float:
        """One number of ``[low, high)``."""
        return low + (high - low) * self._random()

    def happens(self, probability: float) -> bool:
        """Whether an event of this probability takes place."""
        return self._random() < probability

    def below(self, bound: int) -> int:
        """One integer of ``0 … bound - 1``."""
        return int(self._random() * bound)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each as likely."""
        return options[int(self._random() * len(options))]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of the options, each as likely as its weight."""
        point = self._random() * sum(weight for _, weight in options)
        for option, weight in options:
            point -= weight
            if point < 0:
                return option
        return options[-1][0]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in a random order."""
        return [option for _, _, option in sorted((self._random(), i, option) for i, option in enumerate(options))]
