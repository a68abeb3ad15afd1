"""Which threads the system prefers: what a person waits for, before what a job waits for."""

from __future__ import annotations

import os
import sys
import threading

# Where both want a core, a thread with this much more gets a third of what another gets.
NICENESS = 5
MOST = 19


def give_way() -> None:
    """Let the system prefer the other threads to the calling one; only Linux knows a priority of each thread."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(MOST, os.getpriority(os.PRIO_PROCESS, own) + NICENESS))
