"""Keeps the garbage collector from walking again and again over what stays as long as the process."""

from __future__ import annotations

import gc


def set_apart_what_stays() -> None:
    """Collect once more, and leave every object that there is now out of collections from here on.

    A full collection walks over all of them: imported modules, the model, the application. That takes a fifth of a
    second, in which nobody is answered, and under load one comes every second. For a process that serves alone: what
    of these objects becomes garbage in cycles is never collected.
    """
    gc.collect()
    gc.freeze()
