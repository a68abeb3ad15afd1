"""Clusters of copies in a collection, and searching by files and negatives from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from index.exact import ExactCollection
from service.commands.main import build_app
from service.commands.maintenance import backup, restore
from service.search.resemblance import ResemblanceRules, find_clusters
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from tests.index.builders import DIMENSION, FINGERPRINT, picture, unit_vector
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service


def test_copies_form_clusters_also_by_way_of_others() -> None:
    rules = ResemblanceRules(None, (0.0, 1.0), false_alarm_rate=0.001, min_score=0.9)
    collection = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
    base = picture("a", 1)

    def alike(name: str, seed: int, **views: np.ndarray) -> None:
        other = picture(name, seed)
        values = {field: getattr(other, field) for field in other.__dataclass_fields__}
        collection.add([type(other)(**values | views)])

    collection.add([base, picture("alone", 50)])
    alike("same-colours", 2, appearance=base.appearance)
    alike("same-lines", 3, structure=base.structure)
    alike("pair-1", 4, appearance=unit_vector(500))
    alike("pair-2", 5, appearance=unit_vector(500))
    clusters = find_clusters(collection, rules)
    assert [{record.id for record in cluster.records} for cluster in clusters] == [
        {"a", "same-colours", "same-lines"},
        {"pair-1", "pair-2"},
    ]
    assert all(cluster.least_score == pytest.approx(1, abs=1e-5) for cluster in clusters)
    assert clusters[0].least_confidence is None


@pytest.mark.slow
def test_commands_find_copies_and_search_by_files(
    tmp_path: Path, tiny_model: str, tiny_encoder: TwoViewEncoder
) -> None:
    pictures = plain_jpegs(4, seed=12)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, data in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(data)
    copy = io.BytesIO()
    Image.open(io.BytesIO(pictures[1])).save(copy, "PNG")
    (folder / "copy.png").write_bytes(copy.getvalue())
    where = ["--data", str(tmp_path / "data"), "--model", tiny_model]
    run = CliRunner()
    app = build_app()
    assert run.invoke(app, ["add", str(folder), *where]).exit_code == 0
    # Random weights give all pictures nearly the same vector, so only a very high score tells a copy.
    from service.commands.duplicates import duplicates

    app.command("duplicates")(duplicates)
    found = run.invoke(app, ["duplicates", *where, "--min-score", "0.999999", "--json"])
    assert found.exit_code == 0, found.output
    assert [sorted(cluster["ids"]) for cluster in json.loads(found.stdout)] == [["1.jpg", "copy.png"]]
    asked = ["search", *where, "--json", "--limit", "1", "--weight", "0"]
    by_file = run.invoke(app, [*asked, "--image", str(folder / "2.jpg")])
    assert [hit["id"] for hit in json.loads(by_file.stdout)] == ["2.jpg"]
    drawn = np.full((90, 90, 3), 255, np.uint8)
    drawn[40:44, 10:80] = 0
    Image.fromarray(drawn).save(tmp_path / "sketch.png")
    by_sketch = run.invoke(app, ["search", *where, "--json", "--sketch", str(tmp_path / "sketch.png"), "a line"])
    assert by_sketch.exit_code == 0, by_sketch.output
    locally = run.invoke(app, ["search", *where, "--json", "a circle", "--negative", "a square"])
    nothing = run.invoke(app, ["search", *where, "--json"])
    assert "name what to look for" in str(nothing.exception)
    with running_service(Settings(model=tiny_model, data=tmp_path / "data"), tiny_encoder) as url:
        remotely = run.invoke(app, ["search", "--url", url, "--json", "a circle", "--negative", "a square"])
    for here, there in zip(json.loads(locally.stdout), json.loads(remotely.stdout), strict=True):
        assert here["id"] == there["id"]
        assert here["score"] == pytest.approx(there["score"], abs=1e-5)


def test_a_backup_holds_the_watch_lists(tmp_path: Path, tiny_model: str, tiny_encoder: TwoViewEncoder) -> None:
    import httpx

    data = tmp_path / "data"
    with running_service(Settings(model=tiny_model, data=data), tiny_encoder) as url:
        files = [("files", ("a.jpg", plain_jpegs(1, seed=1)[0]))]
        httpx.post(f"{url}/watchlists/l", files=files).raise_for_status()
    backup(tmp_path / "backup", data=data)
    restore(tmp_path / "backup", data=tmp_path / "restored")
    with running_service(Settings(model=tiny_model, data=tmp_path / "restored"), tiny_encoder) as url:
        lists = httpx.get(f"{url}/watchlists").json()["watchlists"]
    assert lists == [{"name": "l", "num_images": 1}]
