"""Embeddings of queries, kept by content: the same query with another weight, limit or filter calls no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class QueryCache(Generic[ValueT]):
    """Keeps the values that were used last; used from one event loop.

    Args:
        max_items: More than this and the value that was not used for longest goes; 0 keeps none.
        on_result: Told ``hit`` or ``miss`` at every question.
    """

    def __init__(self, max_items: int, on_result: Callable[[str], None] = lambda result: None) -> None:
        self._max_items = max_items
        self._on_result = on_result
        self._values: OrderedDict[Hashable, ValueT] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[ValueT]]) -> ValueT:
        """Return the value of a key, made if it is not there; one that cannot be made is not kept.

        Args:
            key: Everything that the value depends on.
            make: Only called when the value is missing. Two questions at once may both call it.
        """
        if key in self._values:
            self._on_result("hit")
            self._values.move_to_end(key)
            return self._values[key]
        self._on_result("miss")
        value = await make()
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._max_items:
            self._values.popitem(last=False)
        return value
