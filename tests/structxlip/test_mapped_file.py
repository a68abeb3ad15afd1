"""Weights in a mapped file are those of the file, take no memory until used, and give it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from structxlip.mapped_file import MappedFile, map_tensors, use_tensors
from tests.support.resident import resident_bytes

MEBIBYTE = 2**20


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        # A scalar first puts all that follows off any alignment but its own.
        "a": torch.tensor(3.5),
        "b": torch.randn(7, 5, generator=generator),
        "c": torch.randn(4, 3, 2, 2, generator=generator).half(),
        "d": torch.arange(6),
        "e": torch.empty(0, 3),
    }
    save_file(tensors, path)
    return path


def test_tensors_are_those_of_the_file(weights: Path) -> None:
    tensors, _ = map_tensors(weights)
    expected = load_file(weights)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor, expected[name])


def test_single_precision_lies_in_the_file_and_nothing_written_reaches_it(weights: Path) -> None:
    before = weights.read_bytes()
    tensors, file = map_tensors(weights)
    first = file.content.ctypes.data
    assert first <= tensors["b"].data_ptr() < first + len(before)
    tensors["b"].zero_()
    assert weights.read_bytes() == before
    assert not tensors["b"].any()
    file.let_go()
    assert torch.equal(tensors["b"], load_file(weights)["b"])


def test_what_is_let_go_takes_no_memory_until_it_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(np.arange(4 * MEBIBYTE, dtype=np.uint32).tobytes())
    file = MappedFile(path)
    assert resident_bytes(path) < MEBIBYTE
    total = int(file.content.sum())
    assert resident_bytes(path) == 16 * MEBIBYTE
    file.let_go()
    assert resident_bytes(path) == 0
    assert int(file.content.sum()) == total


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, these are no weights")
    with pytest.raises(SafetensorError):
        map_tensors(tmp_path / "text")


def test_a_modules_own_type_and_layout_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    given = {name: torch.randn(tensor.shape) for name, tensor in module.state_dict().items()}
    given["1.bias"] = given["1.bias"].half()
    use_tensors(module, given)
    own = dict(module.named_parameters())
    assert own["1.weight"].data_ptr() == given["1.weight"].data_ptr()
    assert own["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert own["1.bias"].dtype == torch.float32
    assert all(torch.equal(own[name], tensor.float()) for name, tensor in given.items())
    assert all(parameter.requires_grad for parameter in own.values())


@pytest.mark.parametrize(
    "given",
    [
        {"weight": torch.ones(2, 3)},
        {"weight": torch.ones(2, 4), "bias": torch.ones(2)},
        {"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)},
    ],
    ids=["missing", "another shape", "left over"],
)
def test_weights_that_do_not_fit_are_refused(given: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RuntimeError):
        use_tensors(nn.Linear(3, 2), given)
