"""What holds across packages: our names are ours alone, and the layering stands."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("structxlip", "training", "index", "service")


@pytest.mark.parametrize("name", OURS)
def test_we_alone_own_our_package_names(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"structxlip"}, f"another distribution installs a top-level package {name!r}: {owners}"
    run = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({name}.__file__)"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert Path(run.stdout.strip()) == ROOT / name / "__init__.py", run.stdout + run.stderr


def test_layers_hold() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout


def test_every_test_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_index_starts_without_torch() -> None:
    code = "import index.local, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_commands_start_without_torch() -> None:
    code = (
        "import sys; from service.commands.main import build_app; build_app();assert 'torch' not in sys.modules, 'slow'"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
