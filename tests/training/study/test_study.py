"""A whole study on rendered scenes written as files: seconds on one core."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support.tiny_open_clip import write_tiny_open_clip
from training.config import TrainingConfigError
from training.loop import RunCache, assemble, epoch_batches
from training.scenes import SceneDataset
from training.study.__main__ import run_missing, write_tables
from training.study.plan import Part, RunKey, StudyConfig, load_study, planned, train_config
from training.study.pool import open_pool
from training.study.results import RunResult, append, read, tuned_rates
from training.study.tables import by_arm, difference, markdown

MOBILENET = {"image_size": 64, "timm_model_name": "mobilenetv2_050", "timm_pool": "avg", "timm_proj": "linear"}


def written_scenes(folder: Path, number: int) -> Path:
    scenes = SceneDataset("train", number, seed=0, size=64)
    manifest = folder / "captions.jsonl"
    rows = []
    for index in range(number):
        name = f"{index:03d}.png"
        Image.fromarray(scenes[index].rgb).save(folder / name)
        split = "train" if index < number - 12 else "val" if index < number - 6 else "test"
        rows.append({"image": name, "caption": scenes.caption(index), "split": split})
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    manifest = str(written_scenes(folder, 28))
    from tests.support.tiny_open_clip import tiny_architecture

    start = write_tiny_open_clip(folder / "model", architecture=tiny_architecture() | {"vision_cfg": MOBILENET})
    source = {"kind": "manifest", "path": manifest}
    base: dict[str, Any] = {
        "name": "base",
        "data": {
            "train": {**source, "split": "train"},
            "val": {**source, "split": "val"},
            "test": {"test": {**source, "split": "test"}},
            "forgetting": {**source, "split": "test"},
            "augmentation": {"flip": True},
            "cache": "memory",
        },
        "model": {"start": f"local-dir:{start}"},
        "loss": {"max_chunks": 4},
        "optimiser": {"lr": 1e-3, "epochs": 2},
        "regime": {"batch_size": 8, "device": "cpu", "num_threads": 1, "pack_texts": True},
        "freezing": {"mode": "towers", "last_layers": 1, "running_statistics": "keep", "cache_folder": "kept"},
        "evaluation": {"num_weights": 3},
        "saving": {"run_folder": str(folder / "run")},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    study = {
        "name": "Tiny",
        "base": str(folder / "base.yaml"),
        "results": str(folder / "results" / "tiny.jsonl"),
        "untrained": ["start"],
        "arms": {"start": [], "plain": ["loss.structure=0", "loss.consistency=0", "loss.local=0"], "all": []},
        "parts": {
            "tuning": {"kind": "given", "arms": ["plain"], "learning_rates": [1e-4, 1e-3]},
            "given": {"kind": "given", "arms": ["start", "plain", "all"], "seeds": [0, 1], "tuned_by": "tuning"},
            "folds": {"kind": "folds", "arms": ["plain"], "num_folds": 2, "num_val": 4},
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def test_a_study_stops_and_goes_on_where_it_was(study_file: Path) -> None:
    study = load_study(study_file)
    said: list[str] = []
    allowed = iter([False, False, False, True])
    folder = study_file.parent / "kept"
    assert run_missing(study, list(study.parts), folder, lambda: next(allowed), said.append) == 3
    results = Path(study.results)
    with results.open("a") as file:
        file.write('{"key": {"part": "giv')  # a run that was killed while it wrote
    assert run_missing(study, list(study.parts), folder, lambda: False, said.append) == 5
    assert run_missing(study, list(study.parts), folder, lambda: False, said.append) == 0
    found = read(results)
    assert len(said) == 3 + 1 + 5
    assert len(found) == 9  # the trial whose rate was chosen counts in both parts
    assert len({result.key for result in found}) == 9
    chosen = tuned_rates(found, "tuning")["plain"]
    assert {r.key.lr for r in found if r.key.part == "given" and r.key.arm == "plain"} == {chosen}
    write_tables(study)
    table = results.with_suffix(".md").read_text()
    assert "| start | 1 |" in table
    assert "| plain | 2 |" in table
    assert results.with_name("tiny_given.png").is_file()


def test_a_run_repeats_itself(study_file: Path) -> None:
    from training.study.runs import run_once

    study = load_study(study_file)
    found = []
    for attempt in range(2):
        config = train_config(study, "all", seed=3)
        pool = open_pool(config, study_file.parent / f"again{attempt}")
        key = RunKey("given", "all", 3, 0, config.optimiser.lr)
        found.append(run_once(key, config, pool.divided(study.parts["given"], 0), pool))
    assert found[0].ranks == found[1].ranks
    assert found[0].validation == found[1].validation


@pytest.mark.parametrize("arm", ["plain", "all"])
def test_runs_without_kept_features_see_the_pictures_themselves(study_file: Path, arm: str) -> None:
    study = load_study(study_file)
    config = train_config(study, arm)
    unfrozen = replace(config, freezing=replace(config.freezing, mode="none", cache_folder=""))
    pool = open_pool(unfrozen, study_file.parent / "kept")
    division = pool.divided(study.parts["given"], 0)
    train = pool.part_of(division.train)
    run = assemble(unfrozen, train, pool.part_of(division.val), pool.cache(unfrozen, division))
    alone = replace(run, cache=RunCache())
    for ours, theirs in zip(epoch_batches(run), epoch_batches(alone), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.rgb is not None
            torch.testing.assert_close(one.rgb, other.rgb)
            torch.testing.assert_close(one.edges, other.edges)


def test_folds_divide_the_records_without_overlap(study_file: Path) -> None:
    study = load_study(study_file)
    pool = open_pool(train_config(study, "plain"), study_file.parent / "kept")
    divisions = [pool.divided(study.parts["folds"], fold) for fold in range(2)]
    assert sorted(index for division in divisions for index in division.test) == list(range(28))
    for division in divisions:
        assert sorted((*division.train, *division.val, *division.test)) == list(range(28))
        assert len(division.val) == 4
    given = pool.divided(study.parts["given"], 0)
    assert [len(given.train), len(given.val), len(given.test)] == [16, 6, 6]


def test_another_configuration_is_another_run(study_file: Path) -> None:
    study = load_study(study_file)
    (first, _), *_ = planned(study, "folds", {})
    changed = StudyConfig(**{**vars(study), "common": ("optimiser.epochs=3",)})
    (other, _), *_ = planned(changed, "folds", {})
    assert first != other
    assert first.told() == other.told()


def test_a_study_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    with pytest.raises(TrainingConfigError, match="cannot be read"):
        load_study(path)
    part = {"given": {"kind": "given", "arms": ["nonsense"]}}
    path.write_text(yaml.safe_dump({"name": "x", "base": "b", "results": "r", "arms": {"plain": []}, "parts": part}))
    with pytest.raises(TrainingConfigError, match=r"names the arms nonsense; known: plain"):
        load_study(path)


def result(arm: str, seed: int, ranks: list[float], fold: int = 0) -> RunResult:
    both = {"text_to_image": ranks, "image_to_text": ranks}
    return RunResult(
        key=RunKey("given", arm, seed, fold, 1e-3),
        validation=1.0,
        epoch=1,
        structure_weight=0.0,
        metrics={},
        ranks=dict.fromkeys(("appearance", "structure", "fused"), both),
        queries=f"of fold {fold}",
        forgetting={"r1": 30.0},
        seconds={"training": 1.0, "all": 2.0},
    )


def test_means_and_deviations_are_over_seeds_with_the_folds_of_a_seed_together() -> None:
    arms = by_arm(
        [
            *(result("plain", 0, ranks, fold) for fold, ranks in enumerate(([1, 1], [1, 9]))),
            *(result("plain", 1, ranks, fold) for fold, ranks in enumerate(([1, 5], [2, 3]))),
            result("plain", 2, [1, 1], 0),
        ],
        "given",
    )
    recall = arms["plain"].recall("appearance", "text_to_image", 1)
    assert arms["plain"].seeds == (0, 1)  # seed 2 lacks a fold
    assert recall.mean == pytest.approx(50.0)
    assert recall.deviation == pytest.approx(np.std([75.0, 25.0], ddof=1))


def test_a_difference_is_paired_and_its_interval_holds_the_truth() -> None:
    random = np.random.default_rng(0)
    hard = random.random(500) < 0.5
    results = []
    for seed in range(3):
        gained = hard & (random.random(500) < 0.1)
        results.append(result("plain", seed, np.where(hard, 2.0, 1.0).tolist()))
        results.append(result("all", seed, np.where(hard & ~gained, 2.0, 1.0).tolist()))
    arms = by_arm(results, "given")
    found = difference(arms["all"], arms["plain"], num_draws=500)
    assert found is not None
    assert found.num_seeds == 3
    assert 0 < found.low < 5 < found.high < 9
    same = difference(arms["all"], arms["all"], num_draws=100)
    assert same is not None
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_arms_without_a_common_seed_are_not_compared() -> None:
    arms = by_arm([result("plain", 0, [1, 2]), result("all", 1, [1, 2])], "given")
    assert difference(arms["all"], arms["plain"]) is None


def test_of_two_runs_of_one_seed_the_later_counts() -> None:
    arms = by_arm([result("plain", 0, [5, 5]), result("plain", 0, [1, 5])], "given")
    assert arms["plain"].recall("appearance", "text_to_image", 1).mean == pytest.approx(50.0)


def test_the_table_shows_each_arm_once(tmp_path: Path) -> None:
    study = StudyConfig(
        name="x", base="", results="", arms={"plain": (), "all": ()}, parts={"given": Part("given", ("plain", "all"))}
    )
    path = tmp_path / "r.jsonl"
    for arm, ranks in (("plain", [1.0, 7.5]), ("all", [1.0, 1.0])):
        append(path, result(arm, 0, ranks))
    table = markdown(study, read(path))
    assert "| plain | 1 | 0.001 | 50.0 | 50.0 | 100.0 |" in table
    assert "| all | 1 | 0.001 | 100.0 |" in table
    assert "+50.0 [" in table


def test_a_part_can_have_a_reference_of_its_own(tmp_path: Path) -> None:
    arms = {"plain": (), "plain, free": (), "all, free": ()}
    parts = {
        "given": Part("given", ("plain",)),
        "free": Part("given", ("plain, free", "all, free"), reference="plain, free"),
    }
    study = StudyConfig(name="x", base="", results="", arms=arms, parts=parts)
    path = tmp_path / "r.jsonl"
    for part, arm, ranks in (
        ("given", "plain", [1.0, 1.0]),
        ("free", "plain, free", [1.0, 9.0]),
        ("free", "all, free", [1.0, 1.0]),
    ):
        found = result(arm, 0, ranks)
        append(path, replace(found, key=replace(found.key, part=part)))
    table = markdown(study, read(path))
    assert "R@1 − plain, free" in table
    assert "+50.0 [" in table
    with pytest.raises(ValueError, match="names the arms nonsense"):
        replace(study, parts={"free": Part("given", ("all, free",), reference="nonsense")})
