"""Which threads the system prefers: what a person waits for, before what a job waits for.

For threads that compute and nothing else. One that runs Python, too, holds the interpreter now and then, and whoever
waits for that would wait for a thread that waits for a core.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MadeT = TypeVar("MadeT")

# Where both want a core, a thread with this much more gets a ninth of what another gets.
NICENESS = 10
MOST = 19


def give_way() -> None:
    """Let the system prefer the other threads to the calling one; only Linux knows a priority of each thread."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(MOST, os.getpriority(os.PRIO_PROCESS, own) + NICENESS))


def made_giving_way(make: Callable[[], MadeT]) -> MadeT:
    """Call a function on a thread that gives way: the threads that it starts, and those they start, do so too."""
    with ThreadPoolExecutor(1, initializer=give_way) as thread:
        return thread.submit(make).result()
