from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from index.collection import Vector
from index.errors import CollectionError, CollectionLockedError, FingerprintMismatchError, StorageError
from index.reembedding import prune_vectors, reembed
from tests.index.builders import content_of, open_local, picture, query_vector, shown, unit_vector

NEW_DIMENSION = 5
Embedded = Sequence[tuple[Vector, Vector] | None]


def new_vectors(content: bytes) -> tuple[Vector, Vector]:
    seed = sum(content) % 10_000
    return unit_vector(seed, NEW_DIMENSION), unit_vector(seed + 1, NEW_DIMENSION)


def embed(items: Sequence[tuple[str, bytes]]) -> Embedded:
    return [new_vectors(content) for _, content in items]


def run(
    folder: Path, embed_: object = embed, batch_size: int = 4
) -> tuple[int, tuple[str, ...], list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    outcome = reembed(
        folder,
        dimension=NEW_DIMENSION,
        fingerprint="model-b",
        embed=embed_,  # type: ignore[arg-type]
        progress=lambda done, total: seen.append((done, total)),
        batch_size=batch_size,
    )
    return outcome.num_embedded, outcome.failed, seen


def open_new(folder: Path):  # type: ignore[no-untyped-def]
    return open_local(folder, dimension=NEW_DIMENSION, fingerprint="model-b")


def test_a_collection_gets_the_vectors_of_another_model(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])
    num, failed, seen = run(folder / "c")
    assert (num, failed) == (10, ())
    assert seen == [(4, 10), (8, 10), (10, 10)]
    with open_new(folder / "c") as collection:
        vectors = collection.vectors("p3")
        np.testing.assert_array_equal(vectors[0], new_vectors(content_of(3))[0])
        assert len(collection.search(query_vector(0, dimension=NEW_DIMENSION), limit=20).items) == 10
        assert collection.get("p3").fingerprint == "model-b"
        assert collection.delete("p4")
    with open_local(folder / "c") as collection:  # the old model still serves
        assert len(collection.search(query_vector(0), limit=20).items) == 9


def test_it_goes_on_where_it_was_stopped(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])
    embedded: list[str] = []

    def stopping(items: Sequence[tuple[str, bytes]]) -> Embedded:
        if len(embedded) >= 4:
            raise KeyboardInterrupt
        embedded.extend(name for name, _ in items)
        return embed(items)

    with pytest.raises(KeyboardInterrupt):
        run(folder / "c", stopping)
    assert len(embedded) == 4
    with pytest.raises(FingerprintMismatchError) as caught:
        open_new(folder / "c")
    assert caught.value.num_missing == 6
    assert run(folder / "c")[0] == 6
    open_new(folder / "c").close()
    assert run(folder / "c") == (0, (), [])


def test_pictures_that_fail_are_told_and_the_others_are_done(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])
        (folder / "c" / "originals" / (h := picture("x", 5).content_hash)[:2] / h).unlink()

    def failing(items: Sequence[tuple[str, bytes]]) -> Embedded:
        return [None if name == "p2" else new_vectors(content) for name, content in items]

    num, failed, _ = run(folder / "c", failing)
    assert num == 8
    assert sorted(failed) == ["p2", "p5"]
    with pytest.raises(CollectionError, match="2 pictures have no vectors of 'model-b'"):
        prune_vectors(folder / "c", keep="model-b")


def test_it_runs_beside_a_service_that_goes_on_writing(folder: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(60)])

        def serve() -> None:
            step = 0
            try:
                while not stop.is_set():
                    name = f"p{step % 60}"
                    collection.add([picture(name, 100 + step)])
                    collection.delete(f"p{(step + 7) % 60}")
                    assert collection.get(name) is not None
                    assert len(collection.search(query_vector(0), limit=100).items) == collection.status().num_images
                    step += 1
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            for _ in range(5):
                run(folder / "c", batch_size=3)
        finally:
            stop.set()
            thread.join()
        assert not failures, failures[0]
        contents = {each.id: collection.original(each.id) for each in collection.list_images(limit=100).items}
        expected = shown(collection.search(query_vector(0), limit=100))
    run(folder / "c")  # what was added since
    with open_new(folder / "c") as collection:
        assert {each.id for each in collection.list_images(limit=100).items} == set(contents)
        for name, content in contents.items():
            assert content is not None
            np.testing.assert_array_equal(collection.vectors(name)[0], new_vectors(content)[0])
    with open_local(folder / "c") as collection:
        assert shown(collection.search(query_vector(0), limit=100)) == expected


def test_old_vectors_can_be_forgotten(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])
        with pytest.raises(CollectionLockedError):
            prune_vectors(folder / "c", keep="model-a")
    run(folder / "c")
    assert prune_vectors(folder / "c", keep="model-b") == 10
    open_new(folder / "c").close()
    with pytest.raises(FingerprintMismatchError):
        open_local(folder / "c")


def test_wrong_results_of_the_model_are_refused(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
    for wrong in (
        lambda items: [],
        lambda items: [(unit_vector(1, 4), unit_vector(1, 4))],
        lambda items: [(np.full(NEW_DIMENSION, np.nan, np.float32), unit_vector(1, NEW_DIMENSION))],
    ):
        with pytest.raises(ValueError):
            run(folder / "c", wrong)


def test_a_folder_without_a_collection_is_refused_and_stays_empty(folder: Path) -> None:
    with pytest.raises(StorageError, match="no collection"):
        run(folder)
    assert list(folder.iterdir()) == []
