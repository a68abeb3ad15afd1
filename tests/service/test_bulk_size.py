from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.bulk_size import BulkSize


@given(fixed=st.floats(0, 0.3), per_item=st.floats(1e-5, 0.5), seconds=st.floats(0.05, 1), first=st.integers(1, 64))
def test_it_settles_on_what_fits(fixed: float, per_item: float, seconds: float, first: int) -> None:
    bulk = BulkSize(seconds, largest=64, first=first)
    fits = max(1, min(64, int((seconds - fixed) / per_item)))
    for _ in range(200):
        bulk.note(bulk.size, fixed + per_item * bulk.size)
    late = []
    for _ in range(100):
        late.append(bulk.size)
        bulk.note(bulk.size, fixed + per_item * bulk.size)
    # One step over is how it finds the limit; it then falls back by the share that was too much.
    assert max(late) <= 2 * fits
    assert max(late) >= fits - 1


def test_a_large_part_that_is_the_same_for_any_size_does_not_keep_batches_small() -> None:
    bulk = BulkSize(0.1, largest=32, first=1)
    for _ in range(40):
        bulk.note(bulk.size, 0.08 + 0.001 * bulk.size)
    assert bulk.size >= 15


def test_a_small_batch_says_nothing_of_a_large_one() -> None:
    bulk = BulkSize(0.5, largest=32, first=16)
    bulk.note(2, 0.1)
    assert bulk.size == 16
    bulk.note(2, 1.0)
    assert bulk.size == 1
