from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from structxlip.length_buckets import split_by_length


def cost(batches: list[list[int]], lengths: list[int], spare: int) -> int:
    return sum(spare + len(batch) * max(lengths[number] for number in batch) for batch in batches)


def every_division(numbers: list[int]) -> list[list[list[int]]]:
    """All set partitions: 203 of six texts."""
    if not numbers:
        return [[]]
    head, *rest = numbers
    divisions = []
    for division in every_division(rest):
        divisions.append([[head], *division])
        divisions += [[*division[:i], [head, *batch], *division[i + 1 :]] for i, batch in enumerate(division)]
    return divisions


@given(lengths=st.lists(st.integers(2, 77), max_size=6), spare=st.integers(0, 200))
def test_no_other_division_is_cheaper(lengths: list[int], spare: int) -> None:
    batches = split_by_length(lengths, spare=spare)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    least = min(cost(division, lengths, spare) for division in every_division(list(range(len(lengths)))))
    assert cost(batches, lengths, spare) == least


def test_short_texts_do_not_pay_for_a_long_one() -> None:
    assert split_by_length([8, 77, 9, 8], spare=16) == [[0, 3, 2], [1]]
    assert split_by_length([8, 9, 10], spare=16) == [[0, 1, 2]]
    assert split_by_length([8, 77, 9, 8], spare=4096) == [[0, 3, 2, 1]]
    assert split_by_length([], spare=16) == []
