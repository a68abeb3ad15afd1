"""Small calibrations, made by hand."""

from __future__ import annotations

import numpy as np

from structxlip.calibration import Background, MatchCalibration, MatchLevel, QueryKind


def unit_rows(num: int, dimension: int, *, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_level(**changes: float) -> MatchLevel:
    values = {
        "offset": 0.0,
        "per_mean": 1.0,
        "per_spread": 2.0,
        "per_growth": 0.1,
        "shape": -0.2,
        "residual": 0.05,
        "num_images": 16.0,
        "level": 1.5,
        "slope": 2.0,
        "intercept": -3.0,
    }
    return MatchLevel(**(values | changes))


def plain_calibration(*, dimension: int = 8, num: int = 32, rate: float = 0.05, **changes: float) -> MatchCalibration:
    background = Background(unit_rows(num, dimension, seed=1), unit_rows(num, dimension, seed=2)).rounded()
    level = plain_level(**changes)
    return MatchCalibration(background, rate, {kind: [(0.0, level), (1.0, level)] for kind in QueryKind})
