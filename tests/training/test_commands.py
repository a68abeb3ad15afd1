from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.training.builders import tiny_config, tiny_tree
from training.commands import captions, edges, evaluate, run_training, train
from training.loop import train as run_to_end


def app() -> typer.Typer:
    found = typer.Typer()
    for command in (train, evaluate, captions, edges):
        found.command()(command)
    return found


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app(), list(arguments))
    return result.exit_code, result.output


def test_captions_shows_the_structural_text_and_its_chunks() -> None:
    code, told = run("captions", "A red house stands to the left of a small blue tree.")
    assert code == 0
    assert told.splitlines()[0] == "A house stands to the left of a small tree."
    assert len(told.splitlines()) > 1


def test_edges_writes_the_map_with_its_regions(tmp_path: Path) -> None:
    rgb = np.full((90, 120, 3), 40, np.uint8)
    rgb[20:60, 30:80] = (200, 60, 60)
    Image.fromarray(rgb).save(tmp_path / "p.png")
    code, told = run("edges", str(tmp_path / "p.png"), "--size", "96")
    assert code == 0
    drawn = np.asarray(Image.open(tmp_path / "p.edges.png"))
    assert drawn.shape == (96, 96, 3)
    assert (drawn == 255).all(axis=2).any()
    assert "region" in told
    code, told = run("edges", str(tmp_path / "p.png"), "--regions", "0", "--out", str(tmp_path / "plain.png"))
    assert code == 0
    assert "region" not in told
    assert set(np.unique(np.asarray(Image.open(tmp_path / "plain.png")))) <= {0, 255}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("edges", "nothing.png"), "cannot be read as a picture"),
        (("captions", "a house", "--filter", "magic"), "magic"),
        (("train", "nothing.yaml"), "nothing.yaml cannot be read"),
        (("evaluate", "no-such-model", "scenes:test"), "unknown model"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments: tuple[str, ...], told: str) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert told in output
    assert "Traceback" not in output


def test_train_runs_a_file_with_overrides_and_ends_with_a_report(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny_tree(tmp_path / "run")))
    code, _ = run("train", str(path), "optimiser.epochs=1", "data.train.num_scenes=8")
    assert code == 0
    assert (tmp_path / "run" / "report.md").is_file()
    assert len((tmp_path / "run" / "steps.csv").read_text().splitlines()) == 2


def test_training_without_a_configuration_says_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_training([])
    assert "training.train CONFIG" in capsys.readouterr().err


def test_evaluate_measures_a_checkpoint_and_writes_a_report(tmp_path: Path) -> None:
    run_to_end(tiny_config(tmp_path / "run", optimiser__epochs=1))
    code, told = run(
        "evaluate", str(tmp_path / "run" / "best"), "scenes:test,num_scenes=6", "--out", str(tmp_path / "report"),
        "--short", "scenes:val,num_scenes=4", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, told
    assert told.count("text to image") == 6
    assert (tmp_path / "report" / "report.md").is_file()
