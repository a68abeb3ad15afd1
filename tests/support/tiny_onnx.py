"""A network in an ONNX file, written byte by byte, so that no test needs an exporter.

The format is that of onnx.proto3: a tree of protocol buffer messages. Field numbers are in the order of use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_convolution(path: Path, kernel: NDArray[np.float32], *, size: tuple[int, int]) -> Path:
    """Write a network of one convolution, `(1, 3, H, W)` to `(1, 1, H, W)`, zero-padded, and return its path."""
    height, width = size
    pads = kernel.shape[2] // 2
    node = (
        _text(1, "picture")
        + _text(1, "kernel")
        + _text(2, "edges")
        + _text(4, "Conv")
        + _message(5, _ints("kernel_shape", kernel.shape[2:]))
        + _message(5, _ints("pads", (pads,) * 4))
    )
    graph = (
        _message(1, node)
        + _text(2, "edge_model")
        + _message(5, _tensor("kernel", kernel))
        + _message(11, _value("picture", (1, 3, height, width)))
        + _message(12, _value("edges", (1, 1, height, width)))
    )
    opset = _number(2, 13)
    path.write_bytes(_number(1, 8) + _message(7, graph) + _message(8, opset))
    return path


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    dims = b"".join(_number(1, dim) for dim in values.shape)
    return dims + _number(2, 1) + _text(8, name) + _message(9, values.astype("<f4").tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_message(1, _number(1, dim)) for dim in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, 1) + _message(2, dims)))


def _ints(name: str, values: tuple[int, ...]) -> bytes:
    return _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
