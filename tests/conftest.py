"""Hypothesis for the whole suite: no limit of time, since a busy machine is not the code's fault.

Where `CI` is set, Hypothesis draws the same examples each time, so that a change never fails over another one's luck;
elsewhere it goes on looking for new ones.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "project", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")
