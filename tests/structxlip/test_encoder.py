from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from structxlip.captions import LexiconFilter
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import PercentileCanny, ScharrEdges
from structxlip.encoder import PreparedText, TwoViewEncoder
from structxlip.errors import EncodingError, UnsupportedModelError
from structxlip.models import load_encoder, load_plain_model
from structxlip.preprocessing import Preprocessing
from structxlip.tokenizer import TextTokenizer
from tests.support.shared_data import shared_path
from tests.support.tiny_open_clip import DIMENSION, IMAGE_SIZE, tiny_architecture, write_tiny_open_clip

CAPTION = "a shiny red table left of two blue chairs"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> TwoViewEncoder:
    return load_encoder(f"local-dir:{tiny}", device="cpu")


@pytest.fixture(scope="module")
def cnn_encoder(tiny: Path) -> TwoViewEncoder:
    torch.manual_seed(0)
    return load_plain_model(f"local-dir:{tiny}", edge_branch=EdgeBranchConfig("cnn", width=8), device="cpu")


def pictures(count: int = 4) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, size=(7, 9, 3), dtype=np.uint8) for _ in range(count)]
    return [np.asarray(Image.fromarray(p).resize((90 + 10 * i, 70))) for i, p in enumerate(small)]


def assert_unit_rows(rows: NDArray[np.float32], count: int) -> None:
    assert rows.shape == (count, DIMENSION)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_it_tells_what_its_users_need_to_know(encoder: TwoViewEncoder, tiny: Path) -> None:
    assert (encoder.name, encoder.device) == (f"local-dir:{tiny}", "cpu")
    assert (encoder.dimension, encoder.image_size, encoder.context_length) == (DIMENSION, IMAGE_SIZE, 77)
    assert (encoder.default_structure_weight, encoder.structure_is_trained) == (0.0, False)
    assert len(encoder.fingerprint) == 64
    told = encoder.describe()
    assert told["fingerprint"] == encoder.fingerprint
    assert told["edges"] == PercentileCanny().config()
    assert json.loads(json.dumps(told)) == told


def test_both_views_of_a_picture_come_from_one_resize(encoder: TwoViewEncoder) -> None:
    for rgb in pictures():
        prepared = encoder.prepare_image(rgb)
        np.testing.assert_array_equal(prepared.rgb, encoder.preprocessing.resize(rgb))
        np.testing.assert_array_equal(prepared.edges, PercentileCanny().detect(prepared.rgb))
        assert prepared.edges.any()


def test_pictures_and_texts_become_unit_vectors(encoder: TwoViewEncoder, cnn_encoder: TwoViewEncoder) -> None:
    for each in (encoder, cnn_encoder):
        images = each.encode_images([each.prepare_image(rgb) for rgb in pictures()])
        texts = each.encode_texts([each.prepare_text(text) for text in (CAPTION, "", "x" * 9000)])
        for rows, count in ((images.appearance, 4), (images.structure, 4), (texts.appearance, 3), (texts.structure, 3)):
            assert_unit_rows(rows, count)
        assert np.abs(images.appearance - images.structure).max() > 0.1


def test_the_appearance_view_is_what_open_clip_itself_gives(encoder: TwoViewEncoder, tiny: Path) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny}")
    model.eval()
    with torch.inference_mode():
        expected = model.encode_image(
            torch.stack([transform(Image.fromarray(rgb)) for rgb in pictures()]), normalize=True
        )
    found = encoder.encode_images([encoder.prepare_image(rgb) for rgb in pictures()]).appearance
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_the_shared_branch_reads_an_edge_map_as_a_grey_picture(encoder: TwoViewEncoder) -> None:
    prepared = [encoder.prepare_image(rgb) for rgb in pictures()]
    as_pictures = [np.repeat(image.edges[..., None], 3, axis=2) for image in prepared]
    with torch.inference_mode():
        pixels = encoder.preprocessing.normalize(as_pictures)
        expected = torch.nn.functional.normalize(encoder.model.encode_image(pixels), dim=-1)  # type: ignore[operator]
    np.testing.assert_allclose(encoder.encode_images(prepared).structure, expected.numpy(), atol=2e-6)


def test_a_sketch_embeds_as_the_edge_map_of_a_picture_does(
    encoder: TwoViewEncoder, cnn_encoder: TwoViewEncoder
) -> None:
    for each in (encoder, cnn_encoder):
        prepared = [each.prepare_image(rgb) for rgb in pictures()]
        found = each.encode_edge_maps([image.edges for image in prepared])
        np.testing.assert_allclose(found, each.encode_images(prepared).structure, atol=2e-6)


def test_a_picture_without_edges_still_gets_a_finite_unit_vector(
    encoder: TwoViewEncoder, cnn_encoder: TwoViewEncoder
) -> None:
    for each in (encoder, cnn_encoder):
        prepared = each.prepare_image(np.full((50, 50, 3), 200, dtype=np.uint8))
        assert not prepared.edges.any()
        assert_unit_rows(each.encode_images([prepared]).structure, 1)


def test_a_text_keeps_its_structural_part_apart(encoder: TwoViewEncoder) -> None:
    prepared = encoder.prepare_text(CAPTION)
    assert prepared.structural_text == LexiconFilter().structural_text(CAPTION) != CAPTION
    np.testing.assert_array_equal(
        prepared.structural_tokens, TextTokenizer(tiny_architecture()).encode(prepared.structural_text).ids
    )
    assert (prepared.num_tokens, prepared.is_truncated, len(prepared.tokens)) == (11, False, 11)
    long = encoder.prepare_text("stool " * 300)
    assert (long.num_tokens, long.is_truncated, len(long.tokens)) == (302, True, 77)


def test_structure_of_a_text_is_the_embedding_of_its_structural_part(encoder: TwoViewEncoder) -> None:
    texts = [CAPTION, "two stools", "a green glossy vase on a wooden shelf"]
    found = encoder.encode_texts([encoder.prepare_text(text) for text in texts])
    structural = [encoder.prepare_text(encoder.prepare_text(text).structural_text) for text in texts]
    np.testing.assert_allclose(found.structure, encoder.encode_texts(structural).appearance, atol=2e-6)
    np.testing.assert_array_equal(found.structure[1], found.appearance[1])
    assert np.abs(found.structure[0] - found.appearance[0]).max() > 0.01


def test_what_is_embedded_does_not_depend_on_what_else_is_in_the_batch(encoder: TwoViewEncoder) -> None:
    images = [encoder.prepare_image(rgb) for rgb in pictures(5)]
    texts = [encoder.prepare_text(text) for text in (CAPTION, "two stools", "a lamp " * 50)]
    for together, alone in (
        (encoder.encode_images(images), [encoder.encode_images([image]) for image in images]),
        (encoder.encode_texts(texts), [encoder.encode_texts([text]) for text in texts]),
    ):
        np.testing.assert_allclose(together.appearance, np.concatenate([a.appearance for a in alone]), atol=2e-6)
        np.testing.assert_allclose(together.structure, np.concatenate([a.structure for a in alone]), atol=2e-6)


def test_nothing_in_gives_nothing_out(encoder: TwoViewEncoder) -> None:
    assert encoder.encode_images([]).appearance.shape == (0, DIMENSION)
    assert encoder.encode_texts([]).structure.shape == (0, DIMENSION)
    assert encoder.encode_edge_maps([]).shape == (0, DIMENSION)


def test_preparing_may_run_in_many_threads(encoder: TwoViewEncoder) -> None:
    rgbs, texts = pictures(12), [f"a red table and {n} stools" for n in range(12)]
    with ThreadPoolExecutor(4) as threads:
        images, prepared = (
            list(threads.map(encoder.prepare_image, rgbs)),
            list(threads.map(encoder.prepare_text, texts)),
        )
    for rgb, image in zip(rgbs, images, strict=True):
        np.testing.assert_array_equal(image.edges, encoder.prepare_image(rgb).edges)
    assert [text.tokens.tolist() for text in prepared] == [encoder.prepare_text(t).tokens.tolist() for t in texts]


def test_an_edge_map_of_another_shape_is_refused(encoder: TwoViewEncoder) -> None:
    for wrong in (np.zeros((10, 10), np.uint8), np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)):
        with pytest.raises(ValueError, match=rf"expected uint8 edge maps of \({IMAGE_SIZE}, {IMAGE_SIZE}\)"):
            encoder.encode_edge_maps([wrong])  # type: ignore[list-item]


def test_numbers_that_are_not_finite_never_leave_it(tiny: Path) -> None:
    broken = load_encoder(f"local-dir:{tiny}", device="cpu")
    with torch.no_grad():
        broken.model.text_projection.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(EncodingError, match="not finite for item 0 of 1"):
        broken.encode_texts([broken.prepare_text("a dog")])


def test_parts_that_do_not_fit_are_refused(encoder: TwoViewEncoder) -> None:
    def with_parts(*, side: int = IMAGE_SIZE, context_length: int = 77) -> TwoViewEncoder:
        text = tiny_architecture()["text_cfg"] | {"context_length": context_length}
        return TwoViewEncoder(
            encoder.model,
            architecture=tiny_architecture(),
            preprocessing=Preprocessing(side, "squash", "bicubic", 0, (0.5,) * 3, (0.5,) * 3),  # type: ignore[arg-type]
            edge_detector=ScharrEdges(),
            caption_filter=LexiconFilter(),
            tokenizer=TextTokenizer({"text_cfg": text}),
        )

    assert with_parts().edge_detector == ScharrEdges()
    with pytest.raises(UnsupportedModelError, match=r"takes \(64, 64\) pixels, the preprocessing gives 96"):
        with_parts(side=96)
    with pytest.raises(UnsupportedModelError, match="77 positions, the tokenizer fills 248"):
        with_parts(context_length=248)


def test_training_and_serving_embed_alike_and_gradients_reach_both_towers(cnn_encoder: TwoViewEncoder) -> None:
    prepared = [cnn_encoder.prepare_image(rgb) for rgb in pictures()]
    served = cnn_encoder.encode_images(prepared)
    pixels = cnn_encoder.preprocessing.normalize([image.rgb for image in prepared])
    edges = torch.from_numpy(np.stack([image.edges for image in prepared]))
    appearance, structure = cnn_encoder.embed_pixels(pixels), cnn_encoder.embed_edges(edges)
    text = cnn_encoder.embed_tokens(cnn_encoder.tokenize([CAPTION, "a dog", "two dogs", "a lamp"]))
    np.testing.assert_allclose(appearance.detach().numpy(), served.appearance, atol=2e-6)
    np.testing.assert_allclose(structure.detach().numpy(), served.structure, atol=2e-6)
    ((appearance + structure) * text).sum().backward()
    assert cnn_encoder.edge_branch is not None
    for module in (cnn_encoder.model.visual, cnn_encoder.model.transformer, cnn_encoder.edge_branch):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())  # type: ignore[union-attr]
    cnn_encoder.model.zero_grad(set_to_none=True)


def test_the_number_of_threads_is_left_alone(tiny: Path) -> None:
    before = torch.get_num_threads()
    load_encoder(f"local-dir:{tiny}", device="cpu").encode_texts([])
    assert torch.get_num_threads() == before


def test_real_photographs_find_their_captions() -> None:
    encoder = load_encoder(f"local-dir:{shared_path('weights/photo-mini')}", device="cpu")
    lines = (shared_path("data/photos") / "captions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    chosen = [record for record in records if record["split"] == "test" and record["image"].startswith("images/f8k")][
        :30
    ]
    photos = [np.asarray(Image.open(shared_path("data/photos") / r["image"]).convert("RGB")) for r in chosen]
    images = encoder.encode_images([encoder.prepare_image(photo) for photo in photos])
    texts: list[PreparedText] = [encoder.prepare_text(record["long"]) for record in chosen]
    ranks = (encoder.encode_texts(texts).appearance @ images.appearance.T).argsort(axis=1)[:, ::-1]
    found_in_five = np.mean([number in row[:5] for number, row in enumerate(ranks)])
    assert found_in_five > 0.8  # chance: 5 in 30
