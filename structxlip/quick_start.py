"""A quicker start: torchvision and timm without torch's compiler.

open_clip imports both. One module of torchvision asks torch's compiler a question at import, and one of timm asks it to
leave a function alone; the answers matter only to those who compile. Asking costs the import of `torch._dynamo`: 1.8 s
of the 4.8 s that `import open_clip` takes (two cores, 2026-11-23, torch 2.15, torchvision 0.29, timm 1.0.31). A command
that somebody waits for leaves it to whoever really compiles.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
ASKING = ("torchvision", "timm")


def import_without_compiler() -> None:
    """Import torchvision and timm now, with a stand-in for `torch._dynamo` that is gone afterwards.

    Does nothing when any of them is imported already. A release that wants more of the compiler than the stand-in has
    is imported in the ordinary way, by whoever needs it next.
    """
    if any(name in sys.modules for name in (COMPILER, *ASKING)):
        return
    importlib.import_module("torch")
    if COMPILER in sys.modules:
        return
    with _stand_in():
        for name in ASKING:
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001  # whatever it wanted: it gets the real thing later
                _forget(name)


@contextmanager
def _stand_in() -> Iterator[None]:
    package, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    package.__dict__.update(__path__=[], disable=_leave_alone, utils=utils)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    stand_ins = {package.__name__: package, utils.__name__: utils}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules["torch"].__dict__.pop("_dynamo", None)


def _leave_alone(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Callable[..., Any]:
    """Stand for `torch._dynamo.disable`, as a decorator with or without arguments."""
    return (lambda wrapped: wrapped) if function is None else function


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type))


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
