"""The commands of docs/training.md work as they stand, but for the model: a tiny one instead of a download."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.tiny_open_clip import write_tiny_open_clip
from training.config import load_config
from training.scenes import SceneDataset

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(command, comments=True)
    for block in re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
]
TINY = ["optimiser.epochs=1", "regime.batch_size=8", "regime.micro_batch=4", "regime.num_threads=1", "regime.amp=none"]


def structxlip(folder: Path, arguments: list[str]) -> str:
    command = Path(sys.executable).with_name("structxlip")
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def own_pictures(tmp_path: Path) -> Path:
    """A folder as the guide has it: captions.jsonl, with one picture that is not there."""
    (tmp_path / "photos").mkdir()
    lines = []
    for split, num in (("train", 24), ("val", 44), ("test", 8)):
        for number, scene in enumerate(SceneDataset(split, num, size=64)):
            name = f"photos/{number + 1}.jpg" if split == "train" else f"photos/{split}-{number}.jpg"
            Image.fromarray(scene.rgb).save(tmp_path / name)
            lines.append({"image": name, "caption": scene.caption, "split": split})
    lines.append({"image": "photos/missing.jpg", "caption": "A cup.", "split": "train"})
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    write_tiny_open_clip(tmp_path / "tiny")
    return tmp_path


@pytest.mark.slow
def test_the_guide_leads_from_pictures_to_a_checkpoint(own_pictures: Path) -> None:
    for program, name, *rest in COMMANDS:
        if program != "structxlip" or name in ("serve", "reindex"):
            continue
        more = ["model.start=local-dir:tiny", *TINY] if name == "train" else []
        told = structxlip(own_pictures, [name, *rest, *more])
        if name == "train":
            assert "data.train: 24 usable records, 1 faulty (1 missing), left out" in told
            assert "photos/missing.jpg" in (own_pictures / "runs/own-pictures/data_train.txt").read_text()
    run = own_pictures / "runs" / "own-pictures"
    block = re.search(r"^```\nruns/own-pictures/\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert block is not None
    for line in block[1].splitlines():
        for name in line.split("   ")[0].split():
            assert (run / name).exists(), name


def test_the_guide_names_real_commands_and_keys() -> None:
    assert {name for program, name, *_ in COMMANDS if program == "structxlip"} == {
        "captions", "edges", "train", "evaluate", "serve", "reindex",
    }  # fmt: skip
    overrides = re.findall(r"\b(?:data|model|loss|regime|saving|optimiser)\.[a-z_.]+=[^`\s]+", DOCUMENT)
    assert len(overrides) >= 8
    load_config(ROOT / "training" / "configs" / "own_pictures.yaml", overrides)
