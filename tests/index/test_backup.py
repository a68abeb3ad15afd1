from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from index.backup import backup_directory, restore
from index.errors import BackupError
from tests.index.builders import content_of, open_local, picture, query_vector, shown


def test_a_backup_restored_elsewhere_is_the_same_collection(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i, metadata={"n": i}, caption=str(i)) for i in range(20)])
        collection.delete("p3")
        records = collection.list_images(limit=50).items
        expected = shown(collection.search(query_vector(0), limit=50))
        collection.backup(folder / "backup")
        collection.add([picture("later", 99)])
    assert restore(folder / "backup", folder / "restored") == 19
    with open_local(folder / "restored") as collection:
        assert collection.list_images(limit=50).items == records
        assert shown(collection.search(query_vector(0), limit=50)) == expected
        for record in records:
            assert collection.original(record.id) == content_of(int(record.id[1:]))
        collection.add([picture("new", 5)])
        assert collection.delete("p4")
    restore(folder / "backup", folder / "again")
    with open_local(folder / "again") as collection:
        assert collection.original("p4") == content_of(4)


def test_a_backup_taken_during_writes_is_consistent(folder: Path) -> None:
    stop = threading.Event()
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(10)])

        def write() -> None:
            step = 0
            while not stop.is_set():
                step += 1
                collection.add([picture("moving", 1000 + step), picture("twin", 1000 + step)])
                collection.delete(f"p{step % 10}")
                collection.add([picture(f"p{step % 10}", step % 10)])

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(5):
                if number % 2:
                    backup_directory(folder / "c", folder / f"backup{number}")  # as another process would
                else:
                    collection.backup(folder / f"backup{number}")
        finally:
            stop.set()
            thread.join()
    for number in range(5):
        restore(folder / f"backup{number}", folder / f"restored{number}")
        with open_local(folder / f"restored{number}") as collection:
            names = {record.id for record in collection.list_images(limit=50).items}
            assert len(names) >= 9
            assert all(collection.original(name) is not None for name in names)
            assert len(collection.search(query_vector(0), limit=50).items) == len(names)
            if "moving" in names:
                assert collection.original("moving") == collection.original("twin")


def backup_of_three(folder: Path) -> Path:
    with open_local(folder / "c") as collection:
        collection.add([picture(f"p{i}", i) for i in range(3)])
        collection.backup(folder / "backup")
    return folder / "backup"


def test_neither_goes_into_a_folder_that_is_not_empty(folder: Path) -> None:
    backup = backup_of_three(folder)
    with pytest.raises(BackupError, match="not empty"):
        restore(backup, folder / "c")
    with open_local(folder / "c") as collection, pytest.raises(BackupError, match="not empty"):
        collection.backup(backup)


@pytest.mark.parametrize("damage", ["manifest", "catalogue", "missing original", "changed original"])
def test_a_damaged_backup_is_refused(folder: Path, damage: str) -> None:
    backup = backup_of_three(folder)
    original = next((backup / "originals").glob("??/*"))
    content = original.read_bytes()
    match damage:
        case "manifest":
            (backup / "backup.json").unlink()
        case "catalogue":
            data = bytearray((backup / "catalogue.sqlite").read_bytes())
            data[100:20_000] = b"\xff" * 19_900
            (backup / "catalogue.sqlite").write_bytes(data)
        case "missing original":
            original.unlink()
        case _:
            original.unlink()  # it is a hard link: the collection keeps its own
            original.write_bytes(content[:-1] + b"?")
    with pytest.raises(BackupError):
        restore(backup, folder / "restored")
    assert not (folder / "restored" / "catalogue.sqlite").exists()
    with open_local(folder / "c") as collection:
        assert all(collection.original(f"p{i}") == content_of(i) for i in range(3))


def test_a_backup_of_a_collection_that_lacks_an_original_fails(folder: Path) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
        next((folder / "c" / "originals").glob("??/*")).unlink()
        with pytest.raises(BackupError, match="missing"):
            collection.backup(folder / "backup")
    with pytest.raises(BackupError, match="not a complete backup"):
        restore(folder / "backup", folder / "restored")


def test_what_a_restored_collection_removes_stays_in_the_backup(folder: Path) -> None:
    backup = backup_of_three(folder)
    restore(backup, folder / "restored")
    shutil.rmtree(folder / "c")
    with open_local(folder / "restored") as collection:
        for i in range(3):
            collection.delete(f"p{i}")
    assert restore(backup, folder / "second") == 3


def test_a_folder_without_a_collection_cannot_be_backed_up(folder: Path) -> None:
    with pytest.raises(BackupError, match="no collection"):
        backup_directory(folder / "nothing", folder / "backup")
    assert not (folder / "backup").exists()
