"""What only a local collection has: its lock, its files, loading in the background, and many threads at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.engine import NumpyEngine
from index.errors import (
    CollectionLockedError,
    FingerprintMismatchError,
    NotReadyError,
    SchemaVersionError,
    StorageError,
)
from index.local import LocalCollection
from index.maintenance import Maintenance
from tests.index.builders import (
    DIMENSION,
    FINGERPRINT,
    QUIET,
    content_of,
    open_local,
    picture,
    query_vector,
    search_while_writing,
    shown,
    unit_vector,
    wait_until,
)

ROOT = Path(__file__).parents[2]


def test_a_second_opening_is_refused_and_names_the_process(folder: Path) -> None:
    with open_local(folder / "c"):
        with pytest.raises(CollectionLockedError, match=f"process {os.getpid()};"):
            open_local(folder / "c")
        code = f"from tests.index.builders import *; open_local(Path({str(folder)!r}) / 'c')"
        other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert f"in use by process {os.getpid()};" in other.stderr
    open_local(folder / "c").close()


def test_a_catalogue_of_a_newer_version_is_refused(folder: Path) -> None:
    open_local(folder / "c").close()
    with closing(sqlite3.connect(folder / "c" / "catalogue.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaVersionError, match="99"):
        open_local(folder / "c")


@pytest.mark.parametrize("content", [b"this is not a database" * 100, None])
def test_a_file_that_is_no_catalogue_is_refused_and_left_alone(folder: Path, content: bytes | None) -> None:
    path = folder / "c" / "catalogue.sqlite"
    path.parent.mkdir()
    if content is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE precious(x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StorageError):
        open_local(folder / "c")
    assert len(path.read_bytes()) >= len(before)
    assert b"CREATE TABLE images" not in path.read_bytes()


def test_a_folder_that_cannot_be_made_is_a_storage_error(folder: Path) -> None:
    (folder / "file").write_text("x")
    with pytest.raises(StorageError):
        open_local(folder / "file" / "c")


def test_pictures_without_vectors_of_the_model_are_an_error_that_says_what_to_do(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1), picture("b", 2)])
    with pytest.raises(FingerprintMismatchError, match=r"structxlip reindex") as caught:
        open_local(folder / "c", fingerprint="model-b")
    assert (caught.value.num_missing, caught.value.asked, caught.value.stored) == (2, "model-b", (FINGERPRINT,))
    with open_local(folder / "c") as collection:
        assert collection.count() == 2


def test_the_same_model_with_another_dimension_is_refused(folder: Path) -> None:
    open_local(folder / "c").close()
    with pytest.raises(StorageError, match="dimension 8; asked for dimension 9"):
        open_local(folder / "c", dimension=9)


def test_while_it_loads_it_says_so_and_refuses_searches_and_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
    gate = threading.Event()
    load = Maintenance._load

    def slow(self: Maintenance) -> None:
        assert gate.wait(20)
        load(self)

    monkeypatch.setattr(Maintenance, "_load", slow)
    collection = LocalCollection.open(
        folder / "c", dimension=DIMENSION, fingerprint=FINGERPRINT, settings=QUIET, wait=False
    )
    with collection:
        status = collection.status()
        assert (status.is_ready, status.num_images, status.activity) == (False, 1, "loading")
        assert status.progress < 1
        assert collection.get("a") is not None
        for call in (
            lambda: collection.search(query_vector(0), limit=1),
            lambda: collection.add([picture("b", 2)]),
            lambda: collection.delete("a"),
            lambda: collection.update("a", caption="x"),
            lambda: collection.snapshot(),
        ):
            with pytest.raises(NotReadyError):
                call()
        gate.set()
        wait_until(lambda: collection.status().is_ready)
        assert len(collection.search(query_vector(0), limit=1).items) == 1
        wait_until(lambda: collection.status().activity is None)


def test_closing_does_not_wait_for_a_long_rebuild(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])
    for path in (folder / "c" / "snapshots").iterdir():
        path.unlink()
    begun, num_steps = threading.Event(), 0
    add = NumpyEngine.add

    def slow(self: NumpyEngine, numbers: Any, vectors: Any) -> None:
        nonlocal num_steps
        num_steps += 1
        begun.set()
        threading.Event().wait(0.05)
        add(self, numbers, vectors)

    monkeypatch.setattr(NumpyEngine, "add", slow)
    monkeypatch.setattr("index.catalogue._BATCH_ROWS", 1)
    collection = LocalCollection.open(
        folder / "c", dimension=DIMENSION, fingerprint=FINGERPRINT, settings=QUIET, wait=False
    )
    assert begun.wait(20)
    assert collection.status().activity == "rebuilding"
    collection.close()
    assert num_steps < 10
    monkeypatch.undo()
    with open_local(folder / "c") as again:
        assert len(again.search(query_vector(0), limit=20).items) == 10


def originals(folder: Path) -> set[str]:
    return {path.name for path in (folder / "originals").glob("??/*")}


def test_content_is_kept_once_and_removed_with_its_last_reference(folder: Path) -> None:
    one, two = picture("x", 1).content_hash, picture("x", 2).content_hash
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1), picture("b", 1), picture("c", 2)])
        assert originals(folder / "c") == {one, two}
        collection.delete("a")
        assert originals(folder / "c") == {one, two}
        collection.add([picture("b", 2)])
        assert originals(folder / "c") == {two}
        collection.delete("b")
        collection.delete("c")
        assert originals(folder / "c") == set()


def test_what_a_crash_left_behind_is_collected_at_the_next_open(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
    orphan = folder / "c" / "originals" / "ab" / ("ab" + "0" * 62)
    orphan.write_bytes(b"never committed")
    half = folder / "c" / "originals" / "incoming" / "tmp.part"
    half.write_bytes(b"half")
    with open_local(folder / "c") as collection:
        assert not half.exists()
        wait_until(lambda: not orphan.exists())
        assert collection.original("a") == content_of(1)


def test_a_missing_original_is_an_error_not_a_missing_picture(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
        for path in (folder / "c" / "originals").glob("??/*"):
            path.unlink()
        with pytest.raises(StorageError, match="missing"):
            collection.original("a")


def test_adds_and_deletes_of_one_content_by_many_threads_never_lose_the_file(folder: Path) -> None:
    failures: list[BaseException] = []
    with open_local(folder / "c") as collection:

        def work(thread: int) -> None:
            try:
                for _ in range(40):
                    collection.add([picture(f"t{thread}", 1)])
                    assert collection.original(f"t{thread}") == content_of(1)
                    assert collection.delete(f"t{thread}")
            except BaseException as error:
                failures.append(error)

        run_all([threading.Thread(target=work, args=(i,)) for i in range(4)])
        assert not failures
        assert originals(folder / "c") == set()


def run_all(threads: list[threading.Thread]) -> None:
    for each in threads:
        each.start()
    for each in threads:
        each.join()


@pytest.mark.parametrize("engine", ["flat", "ivf_sq8", "hnsw"])
def test_searches_beside_writes_never_see_a_torn_state(folder: Path, engine: str) -> None:
    """Fixed pictures are always there; each pair of moving ones is there together, in one of its two versions."""
    settings = replace(QUIET, engine=engine, over_fetch=10)  # type: ignore[arg-type]
    with open_local(folder / "c", settings) as collection:
        fixed = [picture(f"fixed{i}", i) for i in range(20)]
        collection.add(fixed)
        collection.add([picture(f"pair{side}", 500, metadata={"version": 0}) for side in "ab"])

        def write() -> None:
            for version in range(1, 50):
                # Content and metadata change together, and so do both sides.
                images = [picture(f"pair{s}", 500 + version % 7, metadata={"version": version}) for s in "ab"]
                collection.add(images)
                name = f"passing{version}"
                collection.add([picture(name, 900 + version)])
                assert collection.delete(name)

        def search(seed: int) -> None:
            hits = collection.search(query_vector(seed), limit=100).items
            names = [hit.record.id for hit in hits]
            assert len(names) == len(set(names))
            assert {each.id for each in fixed} <= set(names)
            a, b = (next(hit for hit in hits if hit.record.id == f"pair{side}") for side in "ab")
            version = a.record.metadata["version"]
            assert b.record.metadata["version"] == version
            assert isinstance(version, int)
            expected = unit_vector(2 * (500 + version % 7))
            for hit in (a, b):
                np.testing.assert_array_equal(hit.appearance, expected)

        num_searches = search_while_writing(write, search)
        assert num_searches > 20
        assert collection.status().num_images == 22


def test_one_failing_request_costs_only_itself_in_a_shared_commit(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        gate = threading.Event()
        blocker = threading.Thread(target=lambda: collection._writer.run(lambda _: gate.wait(20)))
        blocker.start()
        results: dict[str, object] = {}

        def attempt(name: str) -> None:
            def write(transaction: object) -> None:
                transaction.put(picture(name, 5), "{}")  # type: ignore[attr-defined]
                if name == "bad":
                    raise ZeroDivisionError("in the middle")

            try:
                collection._writer.run(write)
                results[name] = "stored"
            except StorageError as error:
                results[name] = error

        threads = [threading.Thread(target=attempt, args=(name,)) for name in ("one", "bad", "two")]
        for each in threads:
            each.start()
        gate.set()
        for each in [blocker, *threads]:
            each.join()
        assert results["one"] == results["two"] == "stored"
        assert isinstance(results["bad"], StorageError)
        assert {each.id for each in collection.list_images(limit=9).items} == {"one", "two"}
        assert sorted(name for name, _ in shown(collection.search(query_vector(0), limit=9))) == ["one", "two"]
        sequences = [each.sequence for each in collection.list_images(limit=9).items]
        assert sequences == [2, 1]
