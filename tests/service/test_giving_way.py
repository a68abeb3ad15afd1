"""Bulk work gives way to what a person waits for."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from service.batching import Lane
from service.embedding import Embedder
from service.metrics import Metrics
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from structxlip.priority import NICENESS, give_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority of each thread")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_gives_way_alone() -> None:
    before, seen = niceness(), []

    def work() -> None:
        give_way()
        seen.append(niceness())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(19, before + NICENESS)]
    assert niceness() == before


def test_pictures_to_add_are_decoded_behind_those_to_search_by(
    settings: Settings, tiny_encoder: TwoViewEncoder
) -> None:
    embedder = Embedder(tiny_encoder, settings, Metrics())
    found = {lane: pool.submit(niceness).result() for lane, pool in embedder._decode_pools.items()}
    for pool in embedder._decode_pools.values():
        pool.shutdown()
    assert found[Lane.BULK] - found[Lane.INTERACTIVE] == NICENESS
