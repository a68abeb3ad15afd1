"""A call's description as a method: its parameters and its docstring are written once, in `calls.py`.

The types carry over: ``search = method(calls.search)`` gives `Client.search` the parameters of `calls.search` and, for
``Call[SearchResult]``, the result `SearchResult`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from structxlip.client.call import Call

T = TypeVar("T")
P = ParamSpec("P")


class Sender(Protocol):
    """What sends a call and returns its result."""

    def send(self, call: Call[T], /) -> T:
        """Send a call."""
        ...


class AsyncSender(Protocol):
    """What sends a call and returns its result to who awaits it."""

    async def send(self, call: Call[T], /) -> T:
        """Send a call."""
        ...


def method(describe: Callable[P, Call[T]]) -> Callable[Concatenate[Sender, P], T]:
    """Make a method that sends the described call."""

    @functools.wraps(describe)
    def send(self: Sender, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(describe(*args, **kwargs))

    return _with_self(send, describe)


def async_method(describe: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncSender, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method that sends the described call."""

    @functools.wraps(describe)
    async def send(self: AsyncSender, /, *args: P.args, **kwargs: P.kwargs) -> T:
        # In a thread: describing a call may read a picture's file and encode it.
        return await self.send(await asyncio.to_thread(describe, *args, **kwargs))

    return _with_self(send, describe)


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _with_self(function: FunctionT, describe: Callable[..., Call[Any]]) -> FunctionT:
    """Put `self` into the signature that `help` shows: of a method it leaves out the first parameter."""
    described = inspect.signature(describe)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    returned = str(described.return_annotation).removeprefix("Call[").removesuffix("]")
    function.__dict__["__signature__"] = described.replace(
        parameters=[own, *described.parameters.values()], return_annotation=returned
    )
    return function
