from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.builders import tiny_config, tiny_tree
from training.config import OWN_CONFIGS, TrainingConfigError, load_config, parse_config, parse_source

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def test_a_configuration_survives_the_way_to_plain_values_and_back(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, evaluation__wise_ft=[0.25, 0.5])
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("optimiser__learning_rate", "optimiser.learning_rate"), ("regime__batchsize", "batch_size"), ("lose", "loss")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(TrainingConfigError) as caught:
        tiny_config(tmp_path, **{key: 1})
    assert nearest in str(caught.value)
    assert "unknown key" in str(caught.value)


def test_an_unknown_key_of_a_source_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigError, match="did you mean 'num_scenes'"):
        tiny_config(tmp_path, data__train={"kind": "scenes", "split": "train", "num_scene": 3})


def test_a_value_that_does_not_fit_is_told_with_its_key_and_what_was_received(tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigError, match=r"optimiser\.lr: got 'fast'"):
        tiny_config(tmp_path, optimiser__lr="fast")


def test_overrides_change_single_values_of_a_file(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "scenes_tiny.yaml", ["optimiser.lr=3e-4", "seed=7", "loss.local=0"])
    assert (config.optimiser.lr, config.seed, config.loss.local) == (3e-4, 7, 0.0)


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(TrainingConfigError, match="expected key=value"):
        load_config(CONFIGS / "scenes_tiny.yaml", ["optimiser.lr"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_can_be_read(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_says_the_command_that_runs_it(path: Path) -> None:
    told = path.read_text().partition("name:")[0]
    assert f"training/configs/{path.name}" in told or f"structxlip train {path.stem} " in told


def test_a_memory_cache_with_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigError, match="num_workers: 0"):
        tiny_config(tmp_path, data__cache="memory", data__num_workers=2)


def test_a_memory_cache_of_parts_is_refused(tmp_path: Path) -> None:
    parts = {"kind": "scenes", "split": "train", "num_scenes": 8, "num_parts": 8}
    with pytest.raises(TrainingConfigError, match="other ones in every epoch"):
        tiny_config(tmp_path, data__cache="memory", data__train=parts)


def test_kept_features_with_crops_are_refused(tmp_path: Path) -> None:
    changes = {"data__augmentation": {"min_crop_area": 0.8}, "freezing": {"mode": "backbone", "cache_folder": "x"}}
    with pytest.raises(TrainingConfigError, match="no augmentation but flip"):
        tiny_config(tmp_path, **changes)


def test_scratch_without_an_architecture_is_refused(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path)
    tree["model"] = {"start": "scratch"}
    with pytest.raises(TrainingConfigError, match="architecture"):
        parse_config(tree)


def test_a_source_is_read_from_one_line(tmp_path: Path) -> None:
    assert parse_source("scenes:test,num_scenes=5").num_scenes == 5
    assert parse_source(str(tmp_path)).kind == "folder"
    assert parse_source("captions.jsonl,caption_field=long,split=test").caption_field == "long"
    assert parse_source("s3://bucket/{000..009}.tar").kind == "shards"
    with pytest.raises(TrainingConfigError, match="did you mean 'split'"):
        parse_source("captions.jsonl,splitt=test")


def test_what_is_not_installed_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else found(name))
    with pytest.raises(TrainingConfigError, match=r"needs tensorboard.*structxlip\[train\]"):
        load_config(CONFIGS / "scenes_tiny.yaml")


def test_the_packages_own_configurations_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("own_pictures")) == load_config(OWN_CONFIGS / "own_pictures.yaml")
    Path("own_pictures").write_text("name: mine", encoding="utf-8")
    with pytest.raises(TrainingConfigError, match="data"):  # a file of that name goes before
        load_config(Path("own_pictures"))
    with pytest.raises(TrainingConfigError, match=r"own_picture cannot be read.*own_pictures, photos_mini"):
        load_config(Path("own_picture"))
