"""Which exceptions are a user's to mend, and so are shown as one sentence."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot go on; the message says what to do."""


def user_errors() -> tuple[type[BaseException], ...]:
    """Return the exception types whose message is enough."""
    from index.errors import CollectionError
    from service.problems import Problem
    from service.security import KeyFileError, UnsafeAddressError
    from structxlip.client import StructXLIPError
    from structxlip.errors import ModelError

    return (CommandError, CollectionError, Problem, ModelError, StructXLIPError, KeyFileError, UnsafeAddressError)
