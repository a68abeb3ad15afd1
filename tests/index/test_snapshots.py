from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.engine import EngineKind, EngineState
from index.errors import SnapshotError
from index.filters import parse_filter
from index.local import LocalCollection
from index.settings import LocalSettings
from index.snapshots import Lineage, Snapshot, SnapshotFolder, read_snapshot
from tests.index.builders import QUIET, open_local, picture, query_vector, shown, wait_until

NUM = 30


def make(folder: Path, settings: LocalSettings = QUIET) -> list[tuple[str, float]]:
    """A closed collection with a snapshot; returns what a search finds in it."""
    with open_local(folder, settings) as collection:
        collection.add([picture(f"p{i:02d}", i, metadata={"n": i}) for i in range(NUM)])
        collection.snapshot()
        collection.delete("p03")
        collection.add([picture("p04", 100), picture("new", 101)])
        wait_until(lambda: collection.status().activity is None)
        return shown(collection.search(query_vector(0), limit=50))


def files(folder: Path) -> list[Path]:
    return SnapshotFolder(folder / "snapshots", 2).newest_first()


def was_rebuilt(caplog: pytest.LogCaptureFixture) -> bool:
    return "is not used" in caplog.text


def check(collection: LocalCollection, expected: list[tuple[str, float]]) -> None:
    assert shown(collection.search(query_vector(0), limit=50)) == expected
    assert collection.status().is_ready
    assert collection.count(parse_filter({"field": "n", "gte": 0})) == NUM - 2
    collection.add([picture("later", 555)])
    assert collection.delete("later")


@pytest.mark.parametrize("engine", ["flat", "numpy", "ivf_sq8", "hnsw"])
def test_a_snapshot_is_loaded_and_the_rest_replayed(
    folder: Path, engine: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUIET, engine=engine, num_snapshots=3, over_fetch=10)  # type: ignore[arg-type]
    expected = make(folder / "c", settings)
    files(folder / "c")[0].unlink()  # the one from close; the older one lacks the last changes
    with open_local(folder / "c", settings) as collection:
        check(collection, expected)
    assert not was_rebuilt(caplog)


def test_changes_are_replayed_onto_an_old_snapshot(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i:02d}", i, metadata={"n": i}) for i in range(NUM)])
        collection.snapshot()
        kept = files(folder / "c")[0].read_bytes()
    for path in files(folder / "c"):
        path.unlink()
    with open_local(folder / "c") as collection:
        collection.delete("p03")
        collection.add([picture("p04", 100), picture("new", 101), picture("gone", 102)])
        collection.delete("gone")
        expected = shown(collection.search(query_vector(0), limit=50))
    for path in files(folder / "c"):
        path.unlink()
    (folder / "c" / "snapshots" / f"{NUM:020d}.snapshot").write_bytes(kept)
    caplog.clear()
    with open_local(folder / "c") as collection:
        check(collection, expected)
    assert not was_rebuilt(caplog)


def cut(data: bytes, chooser: random.Random) -> bytes:
    return data[: chooser.randrange(len(data))]


def flip(data: bytes, chooser: random.Random) -> bytes:
    place = chooser.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chooser.randrange(8))]) + data[place + 1 :]


def longer(data: bytes, chooser: random.Random) -> bytes:
    return data + b"\x00" * (1 + chooser.randrange(100))


def nothing(data: bytes, chooser: random.Random) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flip, longer, nothing])
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_snapshot_is_refused_and_the_index_rebuilt(
    folder: Path, damage: Callable[[bytes, random.Random], bytes], seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(folder / "c")
    for path in files(folder / "c"):
        path.write_bytes(damage(path.read_bytes(), random.Random(seed)))
    with open_local(folder / "c") as collection:
        check(collection, expected)
    assert was_rebuilt(caplog)


def test_every_single_flipped_bit_of_a_small_snapshot_is_noticed(folder: Path) -> None:
    snapshots = SnapshotFolder(folder, 2)
    arrays = {"numbers": np.arange(2), "rows": np.ones((2, 4), np.float32)}
    state = EngineState(EngineKind.FLAT, {"a": 1}, arrays)
    snapshots.write(Snapshot(Lineage("i", "f", 7, 9), state))
    (path,) = snapshots.newest_first()
    data = path.read_bytes()
    back = read_snapshot(path)
    np.testing.assert_array_equal(back.state.arrays["rows"], arrays["rows"])
    assert back.lineage == Lineage("i", "f", 7, 9)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SnapshotError):
            read_snapshot(path)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(SnapshotError):
            read_snapshot(path)


def test_an_older_snapshot_serves_when_the_newest_is_damaged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = make(folder / "c")
    newest, older = files(folder / "c")
    newest.write_bytes(b"damaged")
    with open_local(folder / "c") as collection:
        check(collection, expected)
    assert caplog.text.count("is not used") == 1
    assert older.stem == f"{NUM:020d}"


def test_without_snapshots_the_index_is_rebuilt(folder: Path) -> None:
    expected = make(folder / "c")
    shutil.rmtree(folder / "c" / "snapshots")
    with open_local(folder / "c") as collection:
        check(collection, expected)
        assert files(folder / "c") == []
    assert len(files(folder / "c")) == 1


def test_a_snapshot_of_another_collection_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(folder / "other")
    expected = make(folder / "c")
    for path in files(folder / "c"):
        path.unlink()
    for path in files(folder / "other"):
        shutil.copy(path, folder / "c" / "snapshots" / path.name)
    with open_local(folder / "c") as collection:
        check(collection, expected)
    assert "another collection" in caplog.text


def test_a_snapshot_newer_than_the_catalogue_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i:02d}", i, metadata={"n": i}) for i in range(NUM)])
    old = (folder / "c" / "catalogue.sqlite").read_bytes()
    with open_local(folder / "c") as collection:
        collection.delete("p00")
    (folder / "c" / "catalogue.sqlite").write_bytes(old)
    for path in files(folder / "c")[1:]:
        path.unlink()
    with open_local(folder / "c") as collection:
        assert collection.status().num_images == NUM
        assert len(collection.search(query_vector(0), limit=50).items) == NUM
    assert "newer than the catalogue" in caplog.text


def test_a_snapshot_of_a_history_that_was_rolled_back_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The catalogue was put back and went on differently, past the number that the snapshot holds."""
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i:02d}", i) for i in range(NUM)])
    old = (folder / "c" / "catalogue.sqlite").read_bytes()
    with open_local(folder / "c") as collection:
        collection.add([picture("lost", 1000)])
    (kept, *_) = files(folder / "c")
    content = kept.read_bytes()
    for path in files(folder / "c"):
        path.unlink()
    (folder / "c" / "catalogue.sqlite").write_bytes(old)
    with open_local(folder / "c") as collection:
        collection.add([picture("other", 2000), picture("more", 2001)])
        expected = shown(collection.search(query_vector(0), limit=50))
    for path in files(folder / "c"):
        path.unlink()
    kept.write_bytes(content)
    caplog.clear()
    with open_local(folder / "c") as collection:
        assert shown(collection.search(query_vector(0), limit=50)) == expected
    assert "history" in caplog.text


def test_snapshots_are_taken_by_themselves_and_the_log_is_cut(folder: Path) -> None:
    settings = replace(QUIET, snapshot_changes=10, snapshot_seconds=0.02)
    with open_local(folder / "c", settings) as collection:
        for i in range(30):
            collection.add([picture(f"p{i:02d}", i)])
        wait_until(lambda: bool(files(folder / "c")) and int(files(folder / "c")[0].stem) == 30)
        assert len(files(folder / "c")) <= settings.num_snapshots
        age = collection.status().snapshot_age_seconds
        assert age is not None
        assert 0 <= age < 60
        with collection._catalogue.read() as reader:
            assert reader.changes_after(0) is None
            assert reader.changes_after(30) is not None
        expected = shown(collection.search(query_vector(0), limit=50))
    with open_local(folder / "c", settings) as collection:
        assert shown(collection.search(query_vector(0), limit=50)) == expected


def test_an_exact_snapshot_serves_both_exact_engines(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = make(folder / "c")
    with open_local(folder / "c", replace(QUIET, engine="numpy")) as collection:
        assert collection.status().engine == "numpy"
        check(collection, expected)
    assert not was_rebuilt(caplog)


def test_another_engine_is_saved_without_a_write(folder: Path) -> None:
    """Else each start would make it anew, until something is added."""
    make(folder / "c", replace(QUIET, engine="flat"))
    settings = replace(QUIET, engine="hnsw")
    with open_local(folder / "c", settings) as collection:
        wait_until(lambda: collection.status().engine == "hnsw" and collection.status().activity is None)
    assert read_snapshot(files(folder / "c")[0]).state.kind is EngineKind.HNSW


def test_an_engine_that_a_snapshot_holds_is_not_saved_again(folder: Path) -> None:
    make(folder / "c")
    newest = files(folder / "c")[0]
    before = newest.stat().st_mtime_ns
    with open_local(folder / "c") as collection:
        wait_until(lambda: collection.status().activity is None)
    assert newest.stat().st_mtime_ns == before
