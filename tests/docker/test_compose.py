"""What `docker-compose.yml` promises, read from the file: needs no Docker engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from service.routers import system
from service.settings import Settings
from tests.support.shared_data import REPOSITORY

COMPOSE_TEXT = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
SERVING = ["service", "service-gpu"]
TRAINING = ["train", "train-gpu"]


def _seconds(duration: str) -> int:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match is not None, f"{duration} is not in seconds"
    return int(match.group(1))


def test_up_without_a_profile_starts_the_service_alone() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["service"]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("gpu", {"service-gpu"}),
        ("monitoring", {"prometheus", "grafana"}),
        ("train", {"train", "train-gpu"}),
    ],
)
def test_a_profile_adds_its_services(profile: str, expected: set[str]) -> None:
    assert {name for name, service in SERVICES.items() if profile in service.get("profiles", [])} == expected


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(entry.startswith("/tmp:") for entry in service["tmpfs"])
    assert "mem_limit" in service
    assert "privileged" not in service
    assert "user" not in service, "the image says who runs it"


def test_every_port_is_published_on_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_foreign_images_are_pinned_and_come_from_the_default_registry() -> None:
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    assert images
    for image in images:
        repository, _, tag = image.partition(":")
        assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", repository), f"{image} names a registry"
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{image} is not pinned to a release"


def test_every_named_volume_is_declared_and_used() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_every_mounted_file_of_the_repository_exists() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    folders = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert folders
    assert all((REPOSITORY / folder).is_dir() for folder in folders), folders


@pytest.mark.parametrize("name", SERVING)
def test_the_service_is_given_settings_that_it_has(name: str) -> None:
    for variable in SERVICES[name]["environment"]:
        assert variable.removeprefix("STRUCTXLIP_").lower() in Settings.model_fields, variable


def test_the_service_starts_with_the_values_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES["service"]["environment"].items():
        if value is not None:
            monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    settings = Settings()
    assert settings.model == "scenes-tiny"
    assert settings.allow_unauthenticated is True
    assert settings.allowed_hosts == ("structxlip",)
    assert settings.api_keys is None


@pytest.mark.parametrize("name", SERVING)
def test_the_grace_period_is_longer_than_the_drain(name: str) -> None:
    drain_seconds = Settings.model_fields["request_seconds"].default + 5
    assert _seconds(SERVICES[name]["stop_grace_period"]) > drain_seconds


def test_the_gpu_service_differs_by_its_libraries_and_its_device_alone() -> None:
    cpu, gpu = SERVICES["service"], SERVICES["service-gpu"]
    assert {key for key in cpu.keys() | gpu.keys() if cpu.get(key) != gpu.get(key)} == {
        "profiles",
        "image",
        "build",
        "deploy",
    }
    assert cpu["build"]["args"] == {**gpu["build"]["args"], "EXTRA": "cpu"}
    assert gpu["build"]["args"]["EXTRA"] == "gpu"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_what_training_writes_is_where_the_service_reads() -> None:
    for name in [*SERVING, *TRAINING]:
        assert "${MODELS_DIR:-models}:/models" in SERVICES[name]["volumes"], name


def test_prometheus_scrapes_the_name_that_the_service_answers_to() -> None:
    config = yaml.safe_load((REPOSITORY / "docker/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = config["scrape_configs"]
    (static,) = scrape["static_configs"]
    host, _, port = static["targets"][0].partition(":")
    for name in SERVING:
        service = SERVICES[name]
        assert host in service["networks"]["default"]["aliases"]
        assert host in service["environment"]["STRUCTXLIP_ALLOWED_HOSTS"].split(",")
        assert service["ports"][0].endswith(f":{port}")
    assert scrape.get("metrics_path", "/metrics") in {getattr(route, "path", None) for route in system.router.routes}


def test_the_readme_explains_every_variable() -> None:
    readme = (REPOSITORY / "docker/README.md").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    variables |= {name for name, value in SERVICES["service"]["environment"].items() if value is None}
    assert variables
    assert {variable for variable in variables if f"`{variable}`" not in readme} == set()


def test_the_readme_states_the_defaults_of_the_file() -> None:
    readme = (REPOSITORY / "docker/README.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in readme.splitlines() if line.startswith("| `")}
    for variable, default in re.findall(r"\$\{(\w+):-([^}]+)\}", COMPOSE_TEXT):
        row = next(row for names, row in rows.items() if f"`{variable}`" in names)
        assert f"`{default}`" in row, f"{variable} is {default} in the file: {row}"
