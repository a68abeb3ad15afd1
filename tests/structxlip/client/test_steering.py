"""Queries that steer: several terms, sketches, negatives, uploads; against the service itself."""

from __future__ import annotations

import asyncio
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from structxlip.client import AsyncClient, Client, InvalidRequestError, PictureError, Term
from tests.support.samples import SAMPLES

SEVERAL = "a yellow snowman inside an orange square frame, above two purple umbrellas in a row"


@pytest.fixture
def drawing(samples: Client) -> Image.Image:
    """Black strokes on white paper: the lines of one of the pictures."""
    return ImageOps.invert(Image.open(BytesIO(samples.images.edges("scene-05"))).convert("L"))


def test_terms_are_weighed_against_each_other(samples: Client) -> None:
    ends = ("scene-00", "scene-07")
    for heavy, light in (ends, ends[::-1]):
        terms = [Term(image_id=heavy, weight=2), Term(image_id=light)]
        mixed = [hit.id for hit in samples.search(query=terms, limit=24).hits]
        alone = [hit.id for hit in samples.search(image_id=heavy, limit=24).hits]
        assert mixed[0] == heavy
        assert mixed.index(light) < alone.index(light)
    both = samples.search(query=[Term(text=SEVERAL), Term(image=SAMPLES / "scene-07.jpg")], structure_weight=0.5)
    for hit in both.hits:
        assert hit.score == pytest.approx(0.5 * hit.scores.appearance + 0.5 * hit.scores.structure, abs=1e-5)


def test_a_sketch_counts_its_structure_alone_unless_told_otherwise(samples: Client, drawing: Image.Image) -> None:
    found = samples.search(sketch=drawing)
    assert found.structure_weight == 1
    assert found.hits[0].id == "scene-05"
    assert found.hits[0].score == pytest.approx(found.hits[0].scores.structure, abs=1e-6)
    white_on_black = samples.search(sketch=np.asarray(ImageOps.invert(drawing)))
    assert white_on_black.hits[0].id == "scene-05"


def test_what_is_not_wanted_is_left_out_or_pushed_down(samples: Client) -> None:
    plain = samples.search(SEVERAL, limit=24)
    best = plain.hits[0].id
    without = samples.search(SEVERAL, negative=Term(image_id=best), limit=24)
    assert without.hits[0].id != best
    assert without.num_excluded >= 1
    several = samples.search(SEVERAL, negative=["a snowman", Term(image=SAMPLES / "scene-18.jpg")], limit=24)
    assert len(several.hits) + several.num_excluded <= 24
    assert "scene-18" not in [hit.id for hit in several.hits[:3]]


def test_an_upload_is_the_same_query_as_base64(samples: Client, drawing: Image.Image) -> None:
    path = SAMPLES / "scene-03.jpg"
    uploaded = samples.search_image(path, structure_weight=1.0, limit=5, negative=Term(image_id="scene-04"))
    sent = samples.search(image=path, structure_weight=1.0, limit=5, negative=Term(image_id="scene-04"))
    assert uploaded.hits == sent.hits
    assert uploaded.structure_weight == 1.0
    assert samples.search_image(drawing, kind="sketch").hits[0].id == "scene-05"
    with pytest.raises(PictureError):
        samples.search_image(b"not a picture")
    with pytest.raises(InvalidRequestError, match="limit"):
        samples.search_image(path, limit=0)


def test_the_async_client_steers_likewise(sample_url: str, samples: Client, drawing: Image.Image) -> None:
    terms = [Term(text=SEVERAL, weight=2), Term(image_id="scene-07")]

    async def scenario() -> None:
        async with AsyncClient(sample_url) as client:
            assert (await client.search(query=terms)).hits == samples.search(query=terms).hits
            assert (await client.search_image(drawing, kind="sketch")).hits[0].id == "scene-05"

    asyncio.run(scenario())
