"""The pictures that come with the package, which are measured with where no others are named."""

from __future__ import annotations

from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "service" / "samples"
