"""Everything that is asked of a service, by both clients."""

from __future__ import annotations

import asyncio
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from structxlip.client import (
    AsyncClient,
    Client,
    ForbiddenError,
    Hit,
    InvalidRequestError,
    NotFoundError,
    Picture,
    TooLargeError,
)
from tests.support.plain_pictures import plain_jpegs
from tests.support.samples import SAMPLES, sample_pictures

SEVERAL = "a yellow snowman inside an orange square frame, above two purple umbrellas in a row"


def same_hits(one: tuple[Hit, ...], other: tuple[Hit, ...]) -> bool:
    return [hit.id for hit in one] == [hit.id for hit in other] and np.allclose(
        [hit.score for hit in one], [hit.score for hit in other], atol=1e-5
    )


def test_words_find_their_picture_and_the_scores_add_up(samples: Client) -> None:
    found = samples.search(SEVERAL, structure_weight=0.25, limit=5)
    assert found.hits[0].id == "scene-00"
    assert found.structure_weight == 0.25
    assert found.structural_text
    assert found.fingerprint == samples.info().fingerprint
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    for hit in found.hits:
        assert hit.score == pytest.approx(0.75 * hit.scores.appearance + 0.25 * hit.scores.structure, abs=1e-6)
    best = found.hits[0]
    assert (best.caption, best.metadata) == (sample_pictures(1)[0].caption, sample_pictures(1)[0].metadata)
    assert set(best.links) == {"self", "file", "thumbnail", "edges"}


def test_a_picture_finds_itself_in_every_form(samples: Client) -> None:
    path = SAMPLES / "scene-03.jpg"
    by_id = samples.search(image_id="scene-03", limit=4)
    assert by_id.hits[0].id == "scene-03"
    with Image.open(path) as picture:
        forms: list[Picture] = [path, str(path), path.read_bytes(), picture, np.asarray(picture)]
        for form in forms:
            assert same_hits(samples.search(image=form, limit=4).hits, by_id.hits), type(form)


def test_a_search_is_narrowed_and_continued(samples: Client) -> None:
    condition = {"field": "background", "eq": "hills"}
    narrowed = samples.search("a scene", filter=condition, limit=100)
    hills = [str(picture.id) for picture in sample_pictures(24) if picture.metadata["background"] == "hills"]
    assert sorted(hit.id for hit in narrowed.hits) == sorted(hills)
    level = narrowed.hits[1].score
    assert all(hit.score >= level for hit in samples.search("a scene", filter=condition, min_score=level).hits)
    pages = []
    cursor = None
    while True:
        page = samples.search("a scene", limit=7, cursor=cursor)
        pages += [hit.id for hit in page.hits]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(pages) == sorted(str(picture.id) for picture in sample_pictures(24))


def test_a_query_that_cannot_be_says_which_part(samples: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"body.*exactly one") as refused:
        samples.search()
    assert refused.value.request_id
    assert refused.value.request_id in str(refused.value)
    assert refused.value.problem.errors
    with pytest.raises(InvalidRequestError, match="exactly one"):
        samples.search("a chair", image_id="scene-00")
    with pytest.raises(InvalidRequestError, match="/limit"):
        samples.search("a chair", limit=0)
    with pytest.raises(NotFoundError, match="no-such-picture"):
        samples.search(image_id="no-such-picture")
    with pytest.raises(TooLargeError):
        samples.search("chair " * 4000)


def test_embeddings_are_unit_vectors_that_repeat_the_scores(samples: Client) -> None:
    path = SAMPLES / "scene-00.jpg"
    vectors = samples.embed([SEVERAL], [path])
    (text,), (image,) = vectors.texts, vectors.images
    for vector in (text.appearance, text.structure, image.appearance, image.structure):
        assert vector.shape == (vectors.dimension,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    best = samples.search(SEVERAL, limit=1).hits[0]
    assert float(text.appearance @ image.appearance) == pytest.approx(best.scores.appearance, abs=1e-5)
    assert float(text.structure @ image.structure) == pytest.approx(best.scores.structure, abs=1e-5)
    assert text.num_tokens > 5
    assert not text.is_truncated
    assert text.structural_text == samples.search(SEVERAL).structural_text
    with pytest.raises(TypeError, match=r"write \[text\]"):
        samples.embed("a single text")


def test_stored_pictures_are_listed_through_all_pages(samples: Client) -> None:
    ids = [str(picture.id) for picture in sample_pictures(24)]
    assert sorted(record.id for record in samples.images.list(page_size=5)) == ids
    assert len({record.id for record in samples.images.list(filter={"field": "background", "ne": "hills"})}) < 24
    page = samples.images.page(limit=5)
    assert (len(page.images), page.total) == (5, 24)
    assert page.cursor


def test_a_stored_picture_comes_back_as_file_thumbnail_and_edges(samples: Client) -> None:
    record = samples.images.get("scene-01")
    data = samples.images.file("scene-01")
    assert data == (SAMPLES / "scene-01.jpg").read_bytes()
    assert record.num_bytes == len(data)
    thumbnail = Image.open(BytesIO(samples.images.thumbnail("scene-01", side=64)))
    assert (thumbnail.format, max(thumbnail.size)) == ("JPEG", 64)
    edges = Image.open(BytesIO(samples.images.edges("scene-01")))
    assert edges.format == "PNG"
    assert 0 < np.asarray(edges.convert("L")).mean() < 128
    for ask in (samples.images.get, samples.images.file, samples.images.thumbnail, samples.images.edges):
        with pytest.raises(NotFoundError):
            ask("no-such-picture")


@pytest.mark.parametrize("image_id", ["a b", "ä?#%41&", "100%", "..a", "a:b.jpg", "+"])
def test_any_id_is_reached(client: Client, image_id: str) -> None:
    (data,) = plain_jpegs(1, seed=71)
    assert client.add(data, id=image_id).id == image_id
    assert client.images.get(image_id).id == image_id
    assert client.images.file(image_id) == data
    changed = client.images.update(image_id, metadata={"price": 3})
    assert (changed.metadata, changed.caption) == ({"price": 3}, None)
    assert client.images.update(image_id, caption="new").metadata == {"price": 3}
    client.images.delete(image_id)
    with pytest.raises(NotFoundError):
        client.images.delete(image_id)


def test_ids_that_would_lead_elsewhere_are_not_sent(samples: Client) -> None:
    for wrong in ("", ".", ".."):
        with pytest.raises(ValueError, match="can be named"):
            samples.images.get(wrong)


def test_the_service_is_described(samples: Client) -> None:
    info = samples.info()
    assert info.num_images == 24
    assert info.model["name"] == "scenes-tiny"
    assert 0 <= info.default_structure_weight <= 1
    assert info.limits["max_files"] == 64
    assert samples.health() is True
    assert samples.readiness().is_ready
    assert samples.wait_until_ready(1).is_ready


def test_a_service_below_a_path_is_reached(sample_url: str) -> None:
    transport = _StripPrefix("/search-service")
    with Client(f"{sample_url}/search-service/", transport=transport) as client:
        assert client.search(SEVERAL, limit=1).hits[0].id == "scene-00"
        assert client.images.get("scene-00").width > 0


class _StripPrefix(httpx.HTTPTransport):
    """What a proxy does that keeps the service below a path."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path.startswith(f"{self._prefix}/")
        raw_path = request.url.raw_path.removeprefix(self._prefix.encode())
        request.url = request.url.copy_with(raw_path=raw_path)
        return super().handle_request(request)


def test_the_async_client_answers_the_same(sample_url: str, samples: Client) -> None:
    path = SAMPLES / "scene-03.jpg"

    async def scenario() -> None:
        async with AsyncClient(sample_url) as client:
            assert (await client.wait_until_ready()).is_ready
            assert await client.health()
            words, picture = await asyncio.gather(client.search(SEVERAL), client.search(image=path))
            assert same_hits(words.hits, samples.search(SEVERAL).hits)
            assert same_hits(picture.hits, samples.search(image=path).hits)
            assert [record async for record in client.images.list(page_size=7)] == list(samples.images.list())
            assert await client.images.get("scene-01") == samples.images.get("scene-01")
            assert await client.images.edges("scene-01") == samples.images.edges("scene-01")
            assert (await client.info()).fingerprint == samples.info().fingerprint
            vectors = await client.embed([SEVERAL], [path])
            assert np.allclose(vectors.images[0].structure, samples.embed(images=[path]).images[0].structure, atol=1e-6)
            with pytest.raises(NotFoundError):
                await client.images.delete("no-such-picture")

    asyncio.run(scenario())


def test_both_clients_offer_the_same() -> None:
    def offered(kind: object) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    with Client() as blocking:
        waiting = AsyncClient()
        assert offered(blocking) == offered(waiting)
        assert offered(blocking.images) == offered(waiting.images)
        assert offered(blocking.watchlists) == offered(waiting.watchlists)


def test_a_key_lacking_the_scope_is_told_apart_from_a_wrong_one() -> None:
    body = {"type": "/problems/forbidden", "title": "Not allowed", "status": 403, "detail": "needs write"}
    answer = httpx.Response(403, json=body, headers={"Content-Type": "application/problem+json; charset=utf-8"})
    transport = httpx.MockTransport(lambda _: answer)
    with Client(transport=transport) as client, pytest.raises(ForbiddenError, match=r"^needs write$"):
        client.images.delete("a")
