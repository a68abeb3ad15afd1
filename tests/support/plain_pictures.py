"""Ordinary JPEG files, each different."""

from __future__ import annotations

from tests.support.pictures import jpeg, scene


def plain_jpegs(num: int, *, seed: int) -> list[bytes]:
    """Return ``num`` small photographs of nothing."""
    return [jpeg(scene(96, 72, seed=seed * 10_007 + number)) for number in range(num)]
