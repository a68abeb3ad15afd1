"""What the Dockerfiles and the build context promise, read from the files: needs no Docker engine."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.routers import system
from tests.support.shared_data import REPOSITORY

DOCKERFILES = ["service.Dockerfile", "training.Dockerfile"]
Instruction = tuple[str, str]


def _instructions(name: str) -> list[Instruction]:
    """Return (word, rest) of each instruction, comments left out and continued lines joined."""
    text = (REPOSITORY / "docker" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def _stage(name: str, stage: str) -> list[Instruction]:
    instructions = _instructions(name)
    starts = [i for i, (word, _) in enumerate(instructions) if word == "FROM"] + [len(instructions)]
    for start, end in itertools.pairwise(starts):
        if instructions[start][1].endswith(f" AS {stage}"):
            return instructions[start:end]
    raise AssertionError(f"{name} has no stage {stage}")


def _last_stage(name: str) -> list[Instruction]:
    return _stage(name, name.removesuffix(".Dockerfile"))


def _ignore_patterns() -> list[str]:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_stage_stands_on_the_base_image_that_the_caller_chose(name: str) -> None:
    instructions = _instructions(name)
    assert instructions[0] == ("ARG", "PYTHON_IMAGE=python:3.11-slim-bookworm")
    bases = [rest.split(" AS ")[0] for word, rest in instructions if word == "FROM"]
    assert bases == [*["${PYTHON_IMAGE}"] * 3, "dependencies"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_runs_as_a_fixed_user_without_rights(name: str) -> None:
    stage = _last_stage(name)
    assert ("USER", "10001:10001") in stage
    user_at = stage.index(("USER", "10001:10001"))
    assert all(word not in {"RUN", "COPY", "ADD"} for word, _ in stage[user_at:])
    assert any(word == "RUN" and "--uid 10001" in rest for word, rest in stage)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_signals_reach_the_program_itself(name: str) -> None:
    for word, rest in _last_stage(name):
        if word in {"ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(rest), list), f"{word} {rest} is not in exec form"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_no_address_of_a_registry_is_written_down(name: str) -> None:
    text = (REPOSITORY / "docker" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert re.findall(r"^ARG (?:PIP_INDEX_URL|TORCH_INDEX_URL)=", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("name", DOCKERFILES)
def test_everything_copied_is_in_the_build_context(name: str) -> None:
    allowed = {pattern.removeprefix("!") for pattern in _ignore_patterns() if pattern.startswith("!")}
    for word, rest in _instructions(name):
        if word != "COPY" or rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            path = source.replace("constraints*.txt", "constraints.txt")
            assert path in allowed, f"{path} is not let through by .dockerignore"
            assert path == "constraints.txt" or (REPOSITORY / path).exists(), path


def test_the_build_context_is_a_list_of_what_goes_in() -> None:
    patterns = _ignore_patterns()
    assert patterns[0] == "*"
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    for package in packages["build"]["targets"]["wheel"]["packages"]:
        assert f"!{package}" in patterns
    # What follows takes away again, from within what was let in.
    last_allowed = max(i for i, pattern in enumerate(patterns) if pattern.startswith("!"))
    assert all(pattern.startswith("**/") for pattern in patterns[last_allowed + 1 :])


@pytest.mark.parametrize("stage", ["dependencies", "package"])
def test_both_images_share_the_layers_below_our_code(stage: str) -> None:
    assert _stage("service.Dockerfile", stage) == _stage("training.Dockerfile", stage)


def test_torch_is_installed_before_anything_that_changes_more_often() -> None:
    stage = _stage("service.Dockerfile", "dependencies")
    installs = [i for i, (word, rest) in enumerate(stage) if word == "RUN" and " install " in rest]
    assert len(installs) == 2
    before_torch = " ".join(rest for word, rest in stage[: installs[0]] if word == "COPY")
    assert "requirements.txt" not in before_torch
    assert "pyproject.toml" not in before_torch


def test_the_health_check_asks_whether_the_service_is_ready() -> None:
    (check,) = [rest for word, rest in _last_stage("service.Dockerfile") if word == "HEALTHCHECK"]
    command = json.loads(check.split("CMD", 1)[1])
    compile(command[-1], "healthcheck", "exec")
    path = re.search(r"'GET', '([^']+)'", command[-1])
    assert path is not None
    assert path.group(1) in {getattr(route, "path", None) for route in system.router.routes}
    (serve,) = [json.loads(rest) for word, rest in _last_stage("service.Dockerfile") if word == "CMD"]
    assert f"'127.0.0.1', {serve[serve.index('--port') + 1]}," in command[-1]


def _list_requirements(*extras: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "docker/list_requirements.py", "pyproject.toml", *extras],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("extra", ["cpu", "gpu", "train"])
def test_the_image_gets_every_requirement_of_the_project(extra: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = _list_requirements(extra)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines() == [
        *project["dependencies"],
        *project["optional-dependencies"][extra],
    ]


def test_an_unknown_extra_is_named_together_with_those_that_exist() -> None:
    listed = _list_requirements("cuda")
    assert listed.returncode != 0
    assert "no such extra: cuda" in listed.stderr
    assert "gpu" in listed.stderr


def test_the_trial_script_is_executable_and_parses() -> None:
    script = REPOSITORY / "docker" / "try.sh"
    assert os.access(script, os.X_OK)
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not on this machine")
    parsed = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr


def test_nothing_in_the_folder_names_a_place_of_one_machine() -> None:
    files = [REPOSITORY / "docker-compose.yml", REPOSITORY / ".dockerignore"]
    files += [path for path in (REPOSITORY / "docker").rglob("*") if path.is_file()]
    hosts = re.compile(r"https?://([\w.-]+)")
    for path in files:
        found = set(hosts.findall(path.read_text(encoding="utf-8")))
        assert found <= {"127.0.0.1", "prometheus"}, f"{Path(path).name} names {found}"
