from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structxlip.sparse_rows import with_zero_rows, without_zero_rows


@given(st.integers(0, 12), st.lists(st.integers(0, 11), unique=True, max_size=12), st.integers(0, 99))
def test_any_table_comes_back_as_it_was(num_rows: int, used: list[int], seed: int) -> None:
    table = torch.zeros(num_rows, 3)
    rows = [row for row in used if row < num_rows]
    table[rows] = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed))
    state = {"table": table, "bias": torch.zeros(5), "cube": torch.zeros(2, 2, 2), "scale": torch.tensor(1.0)}
    back = with_zero_rows(without_zero_rows(state), state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_table_of_mostly_zero_rows_is_stored_without_them() -> None:
    table = torch.zeros(49_408, 96, dtype=torch.float16)
    table[[5, 40_000]] = 1
    packed = without_zero_rows({"table": table})
    assert packed["table.rows"].tolist() == [5, 40_000]
    assert packed["table.kept"].shape == (2, 96)
    assert packed["table.kept"].dtype == torch.float16


def test_a_table_in_use_is_stored_as_it_is() -> None:
    state = {"table": torch.ones(4, 3)}
    assert without_zero_rows(state) == state


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        ({"table.rows": torch.tensor([0]), "table.kept": torch.ones(2, 3)}, "do not fit"),
        ({"table.rows": torch.tensor([0])}, "do not fit"),
        ({"table.kept": torch.ones(1, 3)}, "do not fit"),
        ({"table.rows": torch.tensor([0]), "table.kept": torch.ones(1, 4)}, "do not fit"),
        ({"other.rows": torch.tensor([0]), "other.kept": torch.ones(1, 3)}, "do not fit"),
        ({"table.rows": torch.tensor([9]), "table.kept": torch.ones(1, 3)}, "rows up to 9"),
        ({"table.rows": torch.tensor([-1]), "table.kept": torch.ones(1, 3)}, "rows up to"),
    ],
)
def test_rows_that_do_not_belong_are_refused(packed: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        with_zero_rows(packed, {"table": torch.zeros(5, 3)})
