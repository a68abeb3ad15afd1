"""Nothing acknowledged is lost, nothing half-written served: kills, bad snapshots, a full disk, SIGTERM."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from structxlip.encoder import TwoViewEncoder
from tests.support.oracles_service import decode_reference
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import ServiceProcess, start_service

NUM_ROUNDS = 20
NUM_THREADS = 4
IDS_PER_THREAD = 8
ABSENT = None


@dataclass
class Ledger:
    """What one writing thread knows: for each id, the states that may be found after a crash."""

    possible: dict[str, set[str | None]] = field(default_factory=dict)
    num_acknowledged: int = 0

    def begin(self, image_id: str, state: str | None) -> None:
        """A request is on its way: the old state or the new one may be found."""
        self.possible[image_id] = self.possible.get(image_id, {ABSENT}) | {state}

    def acknowledge(self, image_id: str, state: str | None) -> None:
        """The request was answered: only the new state may be found from now on."""
        self.possible[image_id] = {state}
        self.num_acknowledged += 1


def _digest(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()


def _write_until_dead(url: str, thread: int, seed: int, pictures: list[bytes], ledger: Ledger) -> None:
    chance = random.Random(seed)
    with httpx.Client(base_url=url, timeout=20) as client:
        while True:
            image_id = f"t{thread}-{chance.randrange(IDS_PER_THREAD)}"
            try:
                if chance.random() < 0.25:
                    ledger.begin(image_id, ABSENT)
                    answer = client.delete(f"/images/{image_id}")
                    assert answer.status_code in {204, 404}, answer.text
                    ledger.acknowledge(image_id, ABSENT)
                else:
                    picture = chance.choice(pictures)
                    ledger.begin(image_id, _digest(picture))
                    answer = client.post(
                        "/index",
                        files=[("files", ("a.jpg", picture))],
                        data={"records": json.dumps([{"id": image_id, "metadata": {"thread": thread}}])},
                    )
                    assert answer.status_code == 200, answer.text
                    assert answer.json()["items"][0]["status"] in {"created", "replaced", "unchanged"}, answer.text
                    ledger.acknowledge(image_id, _digest(picture))
            except httpx.TransportError:
                return


def _all_images(client: httpx.Client) -> dict[str, str]:
    found, cursor = {}, None
    while True:
        page = client.get("/images", params={"limit": 7} | ({"cursor": cursor} if cursor else {})).json()
        found |= {image["id"]: image["content_hash"] for image in page["images"]}
        cursor = page["cursor"]
        if cursor is None:
            assert len(found) == page["total"]
            return found


def _check_everything(
    service: ServiceProcess,
    ledgers: list[Ledger],
    pictures: list[bytes],
    expected: dict[str, tuple[np.ndarray, np.ndarray]],
    encoder: TwoViewEncoder,
) -> None:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        found = _all_images(client)
        possible = {key: value for ledger in ledgers for key, value in ledger.possible.items()}
        assert set(found) <= set(possible)
        for image_id, states in possible.items():
            assert found.get(image_id, ABSENT) in states, f"{image_id}: {found.get(image_id)} is none of {states}"
        for image_id, content_hash in found.items():
            assert _digest(client.get(f"/images/{image_id}/file").content) == content_hash
        text = encoder.encode_texts([encoder.prepare_text("a red house left of a tree")])
        answer = client.post(
            "/search", json={"text": "a red house left of a tree", "structure_weight": 0.3, "limit": 100}
        ).json()
        scores = {
            image_id: 0.7 * float(expected[content_hash][0] @ text.appearance[0])
            + 0.3 * float(expected[content_hash][1] @ text.structure[0])
            for image_id, content_hash in found.items()
        }
        assert {hit["id"]: hit["score"] for hit in answer["hits"]} == pytest.approx(scores, abs=1e-5)
    for ledger in ledgers:  # what is found now is what the next round starts from
        ledger.possible = {image_id: {found.get(image_id, ABSENT)} for image_id in ledger.possible}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return plain_jpegs(12, seed=7)


@pytest.fixture(scope="module")
def expected(pictures: list[bytes], tiny_encoder: TwoViewEncoder) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    prepared = [tiny_encoder.prepare_image(decode_reference(picture)) for picture in pictures]
    embedded = tiny_encoder.encode_images(prepared)
    return {_digest(picture): (embedded.appearance[n], embedded.structure[n]) for n, picture in enumerate(pictures)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_acknowledged_write_survives_sigkill(
    tmp_path: Path,
    tiny_model: str,
    tiny_encoder: TwoViewEncoder,
    pictures: list[bytes],
    expected: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    chance = random.Random(20)
    ledgers = [Ledger() for _ in range(NUM_THREADS)]
    service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log", snapshot_seconds=0.2)
    for round_number in range(NUM_ROUNDS):
        threads = [
            threading.Thread(
                target=_write_until_dead,
                args=(service.url, thread, 1000 * round_number + thread, pictures, ledgers[thread]),
            )
            for thread in range(NUM_THREADS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 1.2))
        service.kill()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log", snapshot_seconds=0.2)
        _check_everything(service, ledgers, pictures, expected, tiny_encoder)
    assert sum(ledger.num_acknowledged for ledger in ledgers) > 10 * NUM_ROUNDS
    assert service.stop() == 0


@pytest.mark.slow
def test_sigterm_answers_what_it_has_accepted(tmp_path: Path, tiny_model: str, pictures: list[bytes]) -> None:
    service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log")
    acknowledged: list[str] = []
    broken: list[str] = []
    stopping = threading.Event()

    def add(thread: int) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for number in range(10_000):
                image_id = f"t{thread}-{number}"
                was_stopping = stopping.is_set()
                try:
                    answer = client.post(
                        "/index",
                        files=[("files", ("a", pictures[number % len(pictures)]))] * 8,
                        data={"records": json.dumps([{"id": f"{image_id}-{n}"} for n in range(8)])},
                    )
                except httpx.ConnectError:
                    return  # the door is closed: nothing was accepted
                except httpx.TransportError:
                    if not was_stopping:
                        broken.append(image_id)  # accepted before SIGTERM, never answered
                    return
                acknowledged.extend(item["id"] for item in answer.json()["items"])

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    service.process.terminate()
    stopping.set()
    assert service.process.wait(timeout=60) == 0
    for thread in threads:
        thread.join(timeout=60)
    assert broken == []
    assert acknowledged
    service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log")
    with httpx.Client(base_url=service.url) as client:
        assert set(acknowledged) <= set(_all_images(client))
    service.stop()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["deleted", "truncated", "bit flipped"])
def test_a_damaged_snapshot_is_rebuilt(tmp_path: Path, tiny_model: str, pictures: list[bytes], damage: str) -> None:
    service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log")
    with httpx.Client(base_url=service.url, timeout=30) as client:
        client.post("/index", files=[("files", ("a", picture)) for picture in pictures])
        before = client.post("/search", json={"text": "a tree", "limit": 100}).json()["hits"]
    assert service.stop() == 0
    snapshots = [path for path in (tmp_path / "data" / "snapshots").iterdir() if path.is_file()]
    assert snapshots, "stopping takes a snapshot"
    for path in snapshots:
        _damage(path, damage)
    service = start_service(tiny_model, tmp_path / "data", log=tmp_path / "log")
    after = httpx.post(f"{service.url}/search", json={"text": "a tree", "limit": 100}).json()["hits"]
    service.stop()
    assert after == before


def _damage(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_only_what_does_not_fit(tmp_path: Path, tiny_model: str, small_disk: Path) -> None:
    service = start_service(tiny_model, small_disk / "data", log=tmp_path / "log")
    stored: list[str] = []
    refused = None
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for number, picture in enumerate(plain_jpegs(300, seed=3)):
            padded = picture + b"\0" * 50_000 if picture.startswith(b"\xff\xd8") else picture
            answer = client.post(
                "/index",
                files=[("files", ("a", padded))],
                data={"records": json.dumps([{"id": str(number)}])},
            )
            if answer.status_code != 200:
                refused = answer
                break
            stored.append(answer.json()["items"][0]["id"])
        assert refused is not None, "6 MB were enough for everything: the test does not test"
        assert refused.status_code == 507, refused.text
        assert stored
        assert client.get("/readyz").status_code == 200
        assert set(_all_images(client)) == set(stored)
        assert len(client.post("/search", json={"text": "x", "limit": 1000}).json()["hits"]) == len(stored)
        subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
        again = client.post("/index", files=[("files", ("a", plain_jpegs(1, seed=99)[0]))])
        assert again.json()["items"][0]["status"] == "created"
    assert service.stop() == 0
    service = start_service(tiny_model, small_disk / "data", log=tmp_path / "log")
    with httpx.Client(base_url=service.url) as client:
        assert len(_all_images(client)) == len(stored) + 1
    service.stop()
