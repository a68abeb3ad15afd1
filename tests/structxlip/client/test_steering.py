"""Queries that steer: several terms, sketches, negatives, uploads; against the service itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.settings import Settings
from structxlip.client import (
    AsyncClient,
    Client,
    InvalidRequestError,
    NewPicture,
    NotFoundError,
    PictureError,
    Term,
    Watchlist,
)
from structxlip.models import load_encoder
from tests.support.calibrations import plain_calibration
from tests.support.samples import SAMPLES, sample_pictures
from tests.support.server import running_service

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


def test_the_fields_of_the_samples_can_be_filtered_on(samples: Client) -> None:
    fields = {field.name: field for field in samples.fields()}
    assert {"background", "num_objects", "main_colour"} <= set(fields)
    assert fields["num_objects"].kinds == ("number",)
    least, most = fields["num_objects"].min, fields["num_objects"].max
    assert least is not None
    assert most is not None
    assert least < most
    for value in fields["background"].values:
        condition = {"field": fields["background"].name, "eq": value.value}
        assert len(samples.search("x", filter=condition, limit=100).hits) == value.num_images


def test_a_service_says_what_it_can_do(samples: Client) -> None:
    assert {"sketch", "negatives", "fields"} <= set(samples.info().features)


@pytest.fixture(scope="module")
def calibrated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundled model with a calibration by hand: it judges, though not well."""
    encoder = load_encoder("scenes-tiny", device="cpu")
    encoder.card = replace(encoder.card, calibration=plain_calibration(dimension=encoder.dimension))
    settings = Settings(data=tmp_path_factory.mktemp("calibrated") / "collection")
    with running_service(settings, encoder) as url:
        with Client(url) as client:
            assert {result.status for result in client.add_many(sample_pictures(6))} == {"created"}
        yield url


def test_a_calibrated_model_gives_confidence_and_judges(calibrated_url: str) -> None:
    with Client(calibrated_url) as client:
        calibration = client.info().calibration
        assert (calibration.is_calibrated, calibration.false_accept_rate) == (True, 0.05)
        found = client.search(SEVERAL)
        confidences = [hit.confidence for hit in found.hits if hit.confidence is not None]
        assert len(confidences) == 6
        assert all(0 <= confidence <= 1 for confidence in confidences)
        assert isinstance(found.no_match, bool)
        assert found.false_accept_rate == 0.05
        confident = client.search(SEVERAL, only_confident=True)
        assert {hit.id for hit in confident.hits} <= {hit.id for hit in found.hits}
        assert (not confident.hits) == found.no_match


def test_an_uncalibrated_model_cannot_be_asked_for_confidence(samples: Client) -> None:
    if samples.info().calibration.is_calibrated:
        assert samples.search(SEVERAL, only_confident=True).no_match is not None
        return
    assert samples.search(SEVERAL).no_match is None
    with pytest.raises(InvalidRequestError, match="calibrat"):
        samples.search(SEVERAL, only_confident=True)


def test_an_explanation_names_phrases_and_boxes_that_can_be_followed(samples: Client) -> None:
    explanation = samples.explain(SEVERAL, image_id="scene-00", overlay=True)
    assert explanation.phrases
    for phrase in explanation.phrases:
        assert SEVERAL[phrase.start : phrase.end] == phrase.text
    for region in explanation.regions:
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
    assert len(explanation.similarities) == len(explanation.phrases)
    for pair in explanation.pairs:
        assert explanation.similarities[pair.phrase][pair.region] == pair.similarity
    assert explanation.overlay is not None
    assert Image.open(BytesIO(explanation.overlay)).format == "PNG"
    assert explanation.structure_weight == samples.info().default_structure_weight
    assert samples.explain(SEVERAL, image=SAMPLES / "scene-00.jpg").overlay is None
    with pytest.raises(NotFoundError):
        samples.explain(SEVERAL, image_id="no-such-picture")
    explained = samples.search(SEVERAL, limit=2, include=["explanation"]).hits
    assert explained[0].explanation is not None
    assert explained[0].explanation.phrases == explanation.phrases


def test_a_watch_list_tells_of_a_copy_added_afterwards(client: Client) -> None:
    assert client.watchlists.list() == ()
    (watched,) = client.watchlists.add("logos", [NewPicture(SAMPLES / "scene-03.jpg", "logo")])
    assert (watched.id, watched.status) == ("logo", "created")
    assert client.watchlists.list() == (Watchlist("logos", 1),)
    assert [image.id for image in client.watchlists.images("logos")] == ["logo"]
    copy = ImageOps.grayscale(Image.open(SAMPLES / "scene-03.jpg"))
    (resemblance,) = client.add(copy, id="copy").resembles
    assert (resemblance.watchlist, resemblance.id) == ("logos", "logo")
    assert resemblance.score > 0.5
    assert client.add(SAMPLES / "scene-30.jpg", id="another").resembles == ()
    client.watchlists.delete_image("logos", "logo")
    with pytest.raises(NotFoundError):
        client.watchlists.delete("logos")
    with pytest.raises(NotFoundError):
        client.watchlists.images("logos")
