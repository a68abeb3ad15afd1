"""Ordinary JPEG files, each different."""

from __future__ import annotations

import numpy as np

from tests.support.pictures import jpeg, scene


def plain_jpegs(num: int, *, seed: int) -> list[bytes]:
    """Return ``num`` small photographs of nothing."""
    pictures = []
    for number in range(num):
        rgb = scene(96, 72, seed=seed * 10_007 + number)
        rgb[24:48, 32:64] = np.random.default_rng((seed, number)).integers(0, 256, 3)  # scenes repeat; this does not
        pictures.append(jpeg(rgb))
    return pictures
