"""What holds for the whole suite: services run on torch, and Hypothesis has no limit of time.

A service under test runs the model's own modules unless the test names a backend: the suite starts hundreds of
services, and converting a model each time would take most of its time. The backends have tests of their own.
A busy machine is not the code's fault, so that examples may take as long as they do.

Where `CI` is set, Hypothesis draws the same examples each time, so that a change never fails over another one's luck;
elsewhere it goes on looking for new ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("STRUCTXLIP_BACKEND", "torch")

settings.register_profile(
    "project", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")
