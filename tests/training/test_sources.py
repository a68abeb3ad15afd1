from __future__ import annotations

import csv
import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.config import SourceConfig
from training.data import DataError, PairSource, open_source, validated


def picture_bytes(value: int, size: tuple[int, int] = (40, 30)) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_folder(folder: Path, number: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (folder / f"p{index}.jpg").write_bytes(picture_bytes(index))
        (folder / f"p{index}.txt").write_text(f"caption {index}\nanother {index}\n")
    return folder


def write_manifest(path: Path, rows: list[Any]) -> SourceConfig:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return SourceConfig(kind="manifest", path=str(path))


def opened(config: SourceConfig) -> PairSource:
    return open_source(config, image_size=64)


def test_a_folder_has_a_text_beside_each_picture(tmp_path: Path) -> None:
    source = opened(SourceConfig(kind="folder", path=str(write_folder(tmp_path))))
    pair = source.read(1)
    assert (pair.key, pair.captions, pair.rgb.shape) == ("p1.jpg", ("caption 1", "another 1"), (30, 40, 3))
    assert len(source) == 3


def test_a_jsonl_manifest_and_a_csv_one_give_the_same_pairs(tmp_path: Path) -> None:
    write_folder(tmp_path)
    rows = [{"image": f"p{index}.jpg", "caption": f"number {index}", "split": "train"} for index in range(3)]
    from_jsonl = opened(write_manifest(tmp_path / "captions.jsonl", rows))
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "split"])
        writer.writeheader()
        writer.writerows(rows)
    from_csv = opened(SourceConfig(kind="manifest", path=str(tmp_path / "captions.csv")))
    assert [from_csv.captions(i) for i in range(3)] == [from_jsonl.captions(i) for i in range(3)]
    assert from_csv.digest == from_jsonl.digest


def test_a_manifest_is_cut_to_a_split_a_prefix_and_a_limit(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    rows = [{"image": f"p{i}.jpg", "long": f"n {i}", "split": "test" if i % 2 else "train"} for i in range(4)]
    path = tmp_path / "captions.jsonl"
    write_manifest(path, rows)

    def keys(**options: Any) -> list[str]:
        config = SourceConfig(kind="manifest", path=str(path), caption_field="long", **options)
        source = opened(config)
        return [source.key(index) for index in range(len(source))]

    assert keys(split="test") == ["p1.jpg", "p3.jpg"]
    assert keys(starts_with="p2") == ["p2.jpg"]
    assert keys(limit=2) == ["p0.jpg", "p1.jpg"]


def test_captions_of_one_picture_on_several_lines_are_put_together(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    rows = [{"image": "p0.jpg", "caption": "one"}, {"image": "p0.jpg", "caption": "two"}]
    source = opened(write_manifest(tmp_path / "m.jsonl", rows))
    assert (len(source), source.captions(0)) == (1, ("one", "two"))


def write_shard(path: Path, first: int, number: int) -> None:
    with tarfile.open(path, "w") as archive:
        for index in range(first, first + number):
            members = {".jpg": picture_bytes(index), ".txt": f"caption {index}".encode()}
            if index % 2:
                members[".json"] = json.dumps({"caption": [f"json {index}"], "boxes": [[0, 0, 0.5, 1]]}).encode()
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{index:04d}{ending}")
                info.size = len(content)
                archive.addfile(info, BytesIO(content))


def test_shards_are_read_by_pattern_and_by_range_in_any_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-000.tar", 0, 3)
    write_shard(tmp_path / "s-001.tar", 3, 2)
    for path in (tmp_path / "s-*.tar", tmp_path / "s-{000..001}.tar"):
        source = opened(SourceConfig(kind="shards", path=str(path)))
        assert len(source) == 5
        last, first = source.read(4), source.read(0)
        assert (last.key, last.captions, first.captions) == ("s-001.tar/0004", ("caption 4",), ("caption 0",))
        assert source.captions(3) == ("json 3",)
        np.testing.assert_array_equal(first.rgb, np.asarray(Image.open(BytesIO(picture_bytes(0)))))
        boxes = source.read(1).boxes
        assert boxes is not None
        assert boxes.tolist() == [[0, 0, 0.5, 1]]


def test_shards_come_from_any_file_system_that_fsspec_knows(tmp_path: Path) -> None:
    import fsspec

    write_shard(tmp_path / "a.tar", 0, 2)
    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/a.tar", (tmp_path / "a.tar").read_bytes())
    source = opened(SourceConfig(kind="shards", path="memory://shards/a.tar"))
    assert source.read(1).captions == ("json 1",)


def test_every_fault_is_counted_by_its_kind_and_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    (tmp_path / "cut.jpg").write_bytes(picture_bytes(9)[:-600])
    (tmp_path / "p3.jpg").write_bytes(picture_bytes(0))
    rows = [
        {"image": "p0.jpg", "caption": "fine"},
        {"image": "p0.jpg", "caption": "fine"},
        {"image": "p3.jpg", "caption": "fine"},
        {"image": "gone.jpg", "caption": "lost"},
        {"image": "cut.jpg", "caption": "half a picture"},
        {"image": "p1.jpg", "caption": "  "},
        {"picture": "p2.jpg", "caption": "wrong column"},
        "{not json",
        {"image": "p2.jpg", "caption": "fine too"},
    ]
    source, report = validated(
        opened(write_manifest(tmp_path / "m.jsonl", rows)), name="data.train", on_bad_record="skip"
    )
    assert report.counts == {"missing": 1, "unreadable": 1, "empty": 1, "duplicate": 2, "malformed": 2}
    assert [source.key(index) for index in range(len(source))] == ["p0.jpg", "p2.jpg"]
    for told in ("gone.jpg", "cut.jpg", "p1.jpg", "line 7", "line 8", "the same picture and captions as p0.jpg"):
        assert told in report.told()


def test_a_bad_record_stops_the_run_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "p1.jpg").unlink()
    config = write_manifest(tmp_path / "m.jsonl", [{"image": f"p{i}.jpg", "caption": "x"} for i in range(2)])
    with pytest.raises(DataError, match=r"1 missing[\s\S]*p1\.jpg[\s\S]*on_bad_record: skip"):
        validated(opened(config), name="data.train")


def test_a_picture_that_vanishes_later_stops_the_run_and_is_named(tmp_path: Path) -> None:
    source, _ = validated(opened(SourceConfig(kind="folder", path=str(write_folder(tmp_path)))), name="train")
    (tmp_path / "p1.jpg").write_bytes(b"\xff\xd8 no longer a picture")
    with pytest.raises(DataError, match=r"p1\.jpg"):
        source.read(1)


@pytest.mark.parametrize("kind", ["manifest", "folder"])
def test_data_that_are_not_there_are_told_at_once(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(DataError, match="there is no"):
        opened(SourceConfig(kind=kind, path=str(tmp_path / "nothing")))


def test_an_upright_picture_is_read_whatever_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("turned")
    assert opened(SourceConfig(kind="folder", path=str(tmp_path))).read(0).rgb.shape == (40, 20, 3)


def test_scenes_have_other_words_in_another_epoch_and_the_same_picture() -> None:
    source = opened(SourceConfig(kind="scenes", split="train", num_scenes=4))
    first, second = source.read(2, epoch=0), source.read(2, epoch=1)
    assert first.captions != second.captions
    np.testing.assert_array_equal(first.rgb, second.rgb)
    assert source.read(2, epoch=0).captions == first.captions


def test_parts_follow_the_scenes_and_are_other_ones_in_another_epoch() -> None:
    config = SourceConfig(kind="scenes", split="train", num_scenes=4, num_parts=3)
    source, without = opened(config), opened(SourceConfig(kind="scenes", split="train", num_scenes=4))
    assert (len(source), len(without)) == (7, 4)
    assert source.digest != without.digest
    assert [source.key(index) for index in (3, 4, 6)] == ["train/000003", "train/part/000000", "train/part/000002"]
    assert source.captions(3) == without.captions(3)
    first, later = source.read(5, 0), source.read(5, 1)
    assert first.captions == source.captions(5, 0)
    assert not (first.rgb.shape == later.rgb.shape and first.captions == later.captions)
    np.testing.assert_array_equal(first.rgb, source.read(5, 0).rgb)
    assert len(first.captions[0].split()) < 30
    assert first.boxes is not None
    assert first.boxes.shape == (1, 4)
