"""The dashboard and the alerts speak of metrics that the service has, and of all of them."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from service.app import create_app
from service.metrics import PREFIX, Metrics
from service.settings import Settings
from tests.support.shared_data import REPOSITORY

GRAFANA = REPOSITORY / "docker" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "structxlip.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ALERTS = yaml.safe_load((REPOSITORY / "docker/prometheus/alerts.yml").read_text(encoding="utf-8"))
SERIES = re.compile(rf"\b({PREFIX}_\w+|process_\w+)\b")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
GROUPING = re.compile(r"by \(([^)]*)\) \(rate\((\w+)")


def _dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def _alert_expressions() -> list[str]:
    return [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def _labels_by_series() -> dict[str, set[str]]:
    """Return the labels of every series that `/metrics` can hold, by the names that a query uses."""
    metrics = Metrics()
    labels: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        own = set(metric._labelnames)
        if family.type == "histogram":
            labels |= {f"{family.name}_sum": own, f"{family.name}_count": own}
            labels[f"{family.name}_bucket"] = own | {"le"}
        else:
            labels[family.name + ("_total" if family.type == "counter" else "")] = own
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set(sample.labels))
    return labels


@pytest.mark.parametrize("expression", [*_dashboard_expressions(), *_alert_expressions()])
def test_every_series_asked_for_is_one_of_the_service(expression: str) -> None:
    assert set(SERIES.findall(expression)) - set(_labels_by_series()) == set()


@pytest.mark.parametrize("expression", [*_dashboard_expressions(), *_alert_expressions()])
def test_every_label_asked_for_is_one_of_its_series(expression: str) -> None:
    labels = _labels_by_series()
    asked = [(series, re.findall(r"(\w+)\s*[=!]", matchers)) for series, matchers in SELECTOR.findall(expression)]
    asked += [(series, re.split(r",\s*", grouping)) for grouping, series in GROUPING.findall(expression)]
    for series, names in asked:
        known = labels.get(series, set()) | {"job", "instance"}
        assert set(names) <= known, f"{series} has the labels {sorted(known)}"


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    shown = " ".join(_dashboard_expressions())
    families = {
        re.sub(r"_(bucket|sum|count|created)$", "", name) for name in _labels_by_series() if name.startswith(PREFIX)
    }
    assert len(families) >= 15
    assert {family for family in families if family not in shown} == set()


def test_every_route_asked_for_is_one_of_the_service() -> None:
    routes = set(create_app(Settings(), encoder=Mock(), collection=Mock()).openapi()["paths"])
    selected = re.findall(r'route[=!]~?"([^"]+)"', " ".join(_dashboard_expressions()))
    asked = {route for selection in selected for route in selection.split("|")}
    assert "/search" in asked
    assert asked <= routes, asked - routes


def test_panels_stand_side_by_side_and_have_ids_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        assert columns.stop <= 24, panel["title"]
        own = set(itertools.product(columns, rows))
        assert not own & cells, f"{panel['title']} lies on top of another panel"
        cells |= own


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


def test_panels_ask_the_data_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))
    (source,) = provisioned["datasources"]
    assert source["url"] == "http://prometheus:9090"
    asked = {panel["datasource"]["uid"] for panel in PANELS if "datasource" in panel}
    asked |= {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", [])}
    assert asked == {source["uid"]}


def test_grafana_finds_the_dashboard_where_compose_mounts_it() -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    grafana = compose["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    folder = mounts["./docker/grafana/dashboards"]
    provider = yaml.safe_load((GRAFANA / "dashboards" / "provider.yaml").read_text(encoding="utf-8"))
    assert provider["providers"][0]["options"]["path"] == folder
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/structxlip.json"
    assert mounts["./docker/grafana/datasources"] == "/etc/grafana/provisioning/datasources"


def test_every_alert_has_a_name_a_delay_and_a_sentence() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 4
    for rule in rules:
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["annotations"]["summary"]
