from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from structxlip.errors import UnsupportedModelError
from structxlip.pooling import (
    TextChunks,
    collect_chunks,
    crop_regions,
    image_tower_patch_features,
    join_chunks,
    pool_chunks,
    project_regions,
    project_text,
    roi_pool,
    spread_evenly,
    text_tower_hidden_states,
)
from tests.support import oracles_losses as oracle
from tests.support import tiny_towers
from tests.support.shared_data import shared_path

WHOLE = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
TEXT_MODELS = {
    "CLIP": tiny_towers.clip,
    "CustomTextCLIP": tiny_towers.custom_text_clip,
    "end token by id": lambda: tiny_towers.custom_text_clip(
        text={"pool_type": "eos", "eos_id": tiny_towers.VOCABULARY - 1}
    ),
    "SigLIP-like": tiny_towers.siglip_like,
    "CoCa": tiny_towers.coca,
}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- chunks ---------------------------------------------------------------------------------------------------


def test_token_norms_of_ln_3_and_0_weigh_three_quarters_and_one_quarter() -> None:
    hidden = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]], dtype=torch.float64)
    pooled = pool_chunks(hidden, collect_chunks([[(0, 2)]], max_chunks=1, max_tokens=2))
    torch.testing.assert_close(pooled, torch.tensor([[0.75 * math.log(3), 0.0]], dtype=torch.float64))


@st.composite
def captions_with_chunks(draw_value: st.DrawFn) -> list[list[tuple[int, int]]]:
    span = st.tuples(st.integers(0, 7), st.integers(1, 5)).map(lambda s: (s[0], min(s[0] + s[1], 8)))
    return draw_value(st.lists(st.lists(span, max_size=4), min_size=1, max_size=4))


@settings(max_examples=40, deadline=None)
@given(spans=captions_with_chunks(), seed=st.integers(0, 9999), padding=st.integers(0, 3))
def test_chunk_pooling_equals_the_loop_in_value_and_gradient(
    spans: list[list[tuple[int, int]]], seed: int, padding: int
) -> None:
    number = sum(map(len, spans))
    hidden = draw(seed, len(spans), 8, 5).requires_grad_()
    chunks = collect_chunks(spans, max_chunks=4, max_tokens=8, num_rows=max(number + padding, 1))
    fast = pool_chunks(hidden, chunks)[:number]
    slow = [oracle.pool_chunk(hidden[b], *span) for b, of_caption in enumerate(spans) for span in of_caption]
    if not slow:
        assert fast.numel() == 0
        return
    torch.testing.assert_close(fast, torch.stack(slow))
    direction = draw(seed + 1, number, 5)
    (fast_gradient,) = torch.autograd.grad((fast * direction).sum(), hidden)
    (slow_gradient,) = torch.autograd.grad((torch.stack(slow) * direction).sum(), hidden)
    torch.testing.assert_close(fast_gradient, slow_gradient)


def test_chunk_pooling_passes_gradcheck() -> None:
    chunks = collect_chunks([[(0, 3), (2, 4)], [(1, 2)]], max_chunks=2, max_tokens=3, num_rows=4)
    assert torch.autograd.gradcheck(lambda h: pool_chunks(h, chunks)[:3], draw(0, 2, 4, 3).requires_grad_())


def test_no_pooling_ever_waits_for_the_device() -> None:
    chunks = collect_chunks([[(0, 3)], [(1, 2)]], max_chunks=1, max_tokens=3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        hidden, features = (torch.randn(s, requires_grad=True) for s in ((2, 4, 3), (2, 3, 5, 5)))
        pooled = pool_chunks(hidden, chunks).sum() + roi_pool(features, torch.rand(2, 3, 4)).sum()
        pooled.backward()


def test_padding_rows_of_zeros_keep_gradients_finite() -> None:
    hidden = torch.zeros(1, 3, 4).requires_grad_()
    pool_chunks(hidden, collect_chunks([[]], max_chunks=2, max_tokens=2, num_rows=3)).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@given(st.integers(1, 400), st.integers(1, 64))
def test_too_many_chunks_are_thinned_out_over_the_whole_caption(number: int, limit: int) -> None:
    # The public code keeps the first 64 windows: a quarter of an average long caption is never seen.
    chosen = spread_evenly([(index, index + 1) for index in range(number)], limit)
    places = [start for start, _ in chosen]
    assert len(chosen) == min(number, limit)
    assert places == sorted(set(places))
    if limit > 1:
        assert places[0] == 0
        assert places[-1] == number - 1
        gaps = [right - left for left, right in pairwise(places)]
        assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_chunks_of_a_batch_carry_their_owner_and_padding_none() -> None:
    chunks = collect_chunks([[(1, 3)], [], [(0, 2), (4, 9)]], max_chunks=8, max_tokens=4, num_rows=5)
    assert chunks.owner.tolist() == [0, 2, 2, -1, -1]
    assert chunks.start.tolist() == [1, 0, 4, 0, 0]
    assert chunks.end.tolist() == [3, 2, 8, 1, 1]
    assert chunks.max_tokens == 4


def test_joined_chunks_pool_the_same_tokens_of_the_whole_batch() -> None:
    spans = [[(0, 2), (1, 4)], [], [(3, 6)], [(2, 3)]]
    hidden = draw(0, 4, 8, 5)
    parts = [collect_chunks(part, max_chunks=4, max_tokens=8, num_rows=3) for part in (spans[:2], spans[2:])]
    joined = join_chunks(parts, batch_sizes=[2, 2])
    whole = collect_chunks(spans, max_chunks=4, max_tokens=8)
    torch.testing.assert_close(pool_chunks(hidden, joined)[joined.owner >= 0], pool_chunks(hidden, whole))
    assert joined.owner.tolist() == [0, 0, -1, 2, 3, -1]


@pytest.mark.parametrize("span", [(3, 3), (4, 2), (-1, 2)])
def test_a_chunk_without_tokens_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="caption 1 has the chunk"):
        collect_chunks([[], [span]], max_chunks=2, max_tokens=2)


def test_more_chunks_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 chunks, which do not fit in 1 rows"):
        collect_chunks([[(0, 1), (1, 2)]], max_chunks=2, max_tokens=2, num_rows=1)


def test_a_chunk_beyond_the_encoded_tokens_is_an_error_and_not_another_caption() -> None:
    chunks = collect_chunks([[(6, 9)], []], max_chunks=1, max_tokens=4)
    with pytest.raises(IndexError):
        pool_chunks(draw(0, 2, 8, 3), chunks)


# --- text towers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXT_MODELS)
@torch.no_grad()
def test_the_embedding_beside_the_hidden_states_is_the_models_own(kind: str) -> None:
    model = TEXT_MODELS[kind]()
    tokens = tiny_towers.tokens([5, 12, 3])
    features = text_tower_hidden_states(model, tokens)
    assert torch.equal(features.embedding, model.encode_text(tokens, normalize=False))
    assert features.hidden.shape == (3, 12, 24)


@pytest.mark.parametrize(
    ("kind", "end_columns"),
    [
        ("CLIP", [4, 11, 2]),
        ("CustomTextCLIP", [4, 11, 2]),
        ("end token by id", [4, 11, 2]),
        ("SigLIP-like", [11, 11, 11]),
    ],
)
@torch.no_grad()
def test_a_chunk_of_the_end_token_alone_reproduces_the_text_embedding(kind: str, end_columns: list[int]) -> None:
    model = TEXT_MODELS[kind]()
    tokens = tiny_towers.tokens([5, 12, 3])
    features = text_tower_hidden_states(model, tokens)
    chunks = collect_chunks([[(end, end + 1)] for end in end_columns], max_chunks=1, max_tokens=1)
    embedding = project_text(model, pool_chunks(features.hidden, chunks))
    # Exact: a second layer norm, as in the public code, would be far off.
    assert torch.equal(embedding, model.encode_text(tokens))
    twice = project_text(model, _final_norm(model)(pool_chunks(features.hidden, chunks)))
    assert (twice - embedding).abs().max() > 0.05


def _final_norm(model: Any) -> Any:
    return getattr(model, "text", model).ln_final


@torch.no_grad()
def test_hidden_states_of_a_tower_with_a_class_token_are_normed_once() -> None:
    model = tiny_towers.coca()
    hidden = text_tower_hidden_states(model, tiny_towers.tokens([5])).hidden
    norm = _final_norm(model)
    standardised = (hidden - norm.bias) / norm.weight
    torch.testing.assert_close(standardised.mean(dim=-1), torch.zeros(1, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(dim=-1, unbiased=False), torch.ones(1, 12), atol=1e-3, rtol=0)


@torch.no_grad()
def test_a_batch_cut_to_its_longest_caption_gives_the_same_hidden_states() -> None:
    model = tiny_towers.clip()
    tokens = tiny_towers.tokens([5, 7])
    cut, full = text_tower_hidden_states(model, tokens[:, :7]), text_tower_hidden_states(model, tokens)
    torch.testing.assert_close(cut.hidden, full.hidden[:, :7])
    torch.testing.assert_close(cut.embedding, full.embedding)


def test_gradients_reach_the_text_tower_through_chunks() -> None:
    model = tiny_towers.clip()
    features = text_tower_hidden_states(model, tiny_towers.tokens([5, 7]))
    chunks = collect_chunks([[(1, 3)], [(2, 5)]], max_chunks=1, max_tokens=4)
    project_text(model, pool_chunks(features.hidden, chunks)).square().sum().backward()
    for parameter in (model.token_embedding.weight, model.ln_final.weight, model.text_projection):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_a_text_tower_of_another_make_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedModelError, match=r"TowerWithoutTable.*local loss"):
        text_tower_hidden_states(tiny_towers.without_table(), tiny_towers.tokens([5]))


# --- image towers -----------------------------------------------------------------------------------------------

IMAGE_MODELS = {
    "ViT, class token": (tiny_towers.clip, 32),
    "ViT, mean": (lambda: tiny_towers.clip(vision={"pool_type": "avg"}), 32),
    "ViT, norm after mean": (
        lambda: tiny_towers.clip(vision={"pool_type": "avg", "final_ln_after_pool": True}),
        32,
    ),
    "MobileNetV2": (lambda: tiny_towers.timm_clip("mobilenetv2_050"), 64),
    "ResNet": (lambda: tiny_towers.timm_clip("test_resnet"), 64),
    "timm ViT, class token": (
        lambda: tiny_towers.timm_clip("test_vit", timm_pool="token", image_size=160),
        160,
    ),
    "timm ViT, mean": (lambda: tiny_towers.timm_clip("test_vit", image_size=160), 160),
    "timm ViT, attention": (
        lambda: tiny_towers.timm_clip("test_vit3", timm_pool="map", image_size=160),
        160,
    ),
    "ConvNeXt": (lambda: tiny_towers.timm_clip("test_convnext"), 64),
    "channels last": (lambda: tiny_towers.timm_clip("swin_tiny_patch4_window7_224"), 224),
}


@pytest.mark.parametrize("kind", IMAGE_MODELS)
@torch.no_grad()
def test_the_embedding_beside_the_patches_is_the_models_own(kind: str) -> None:
    build, size = IMAGE_MODELS[kind]
    model, images = build(), tiny_towers.images(2, size=size)
    features = image_tower_patch_features(model, images)
    assert torch.equal(features.embedding, model.encode_image(images))
    boxes = torch.rand(2, 3, 4)
    assert project_regions(model, roi_pool(features.patches, boxes)).shape == (2, 3, 16)


@pytest.mark.parametrize(
    "kind", [kind for kind in IMAGE_MODELS if kind.split(", ")[-1] not in ("class token", "attention")]
)
@torch.no_grad()
def test_the_region_of_the_whole_picture_has_the_pictures_embedding(kind: str) -> None:
    build, size = IMAGE_MODELS[kind]
    model, images = build(), tiny_towers.images(2, size=size)
    features = image_tower_patch_features(model, images)
    regions = project_regions(model, roi_pool(features.patches, WHOLE.expand(2, 1, 4)))
    torch.testing.assert_close(regions[:, 0], features.embedding, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_trained_model_gives_its_own_embeddings_beside_its_parts() -> None:
    folder = shared_path("weights/photo-base")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a dog on the beach", "two boats"])
    images = tiny_towers.images(2, size=224)
    pictures, texts = image_tower_patch_features(model, images), text_tower_hidden_states(model, tokens)
    assert pictures.patches.shape[2:] == (7, 7)
    assert torch.equal(pictures.embedding, model.encode_image(images))
    assert torch.equal(texts.embedding, model.encode_text(tokens))
    whole = project_regions(model, roi_pool(pictures.patches, WHOLE.expand(2, 1, 4)))
    torch.testing.assert_close(whole[:, 0], pictures.embedding, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_patches_lie_where_the_picture_has_them() -> None:
    model = tiny_towers.clip(vision={"layers": 0})  # without attention a patch knows only itself
    images = tiny_towers.images(1)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] += 1  # the second row of patches, the fourth column
    before = image_tower_patch_features(model, images).patches
    after = image_tower_patch_features(model, changed).patches
    moved = (after - before).abs().amax(dim=(0, 1)) > 1e-6
    assert moved.nonzero().tolist() == [[1, 3]]


def test_an_image_tower_that_projects_no_patches_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedModelError, match="crops"):
        image_tower_patch_features(tiny_towers.coca(), tiny_towers.images(1))


def test_patch_dropout_is_refused_in_training_alone() -> None:
    model = tiny_towers.clip(vision={"patch_dropout": 0.5})
    image_tower_patch_features(model, tiny_towers.images(1))
    with pytest.raises(UnsupportedModelError, match="patch_dropout"):
        image_tower_patch_features(model.train(), tiny_towers.images(1))


# --- regions ----------------------------------------------------------------------------------------------------


def test_a_box_takes_the_mean_of_the_cells_by_the_area_it_covers() -> None:
    features = torch.arange(4, dtype=torch.float64).reshape(1, 1, 2, 2)
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.25, 0, 1, 0.5]]]).double()
    # The last box covers half of the cell 0 and all of the cell 1.
    expected = torch.tensor([[[1.5], [0.0], [0.5], [2 / 3]]], dtype=torch.float64)
    torch.testing.assert_close(roi_pool(features, boxes), expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=4, max_size=4), st.integers(0, 9999))
def test_region_pooling_equals_the_mean_over_a_fine_lattice(edges: list[int], seed: int) -> None:
    x1, x2 = sorted(edges[:2])
    y1, y2 = sorted(edges[2:])
    if x1 == x2 or y1 == y2:
        return
    box = (x1 / 10, y1 / 10, x2 / 10, y2 / 10)
    features = draw(seed, 1, 2, 2, 5)
    pooled = roi_pool(features, torch.tensor([[box]], dtype=torch.float64))
    # 10 is a multiple of both sides of the map: with this many steps a lattice cell lies in one cell of the map.
    x, y = x2 - x1, y2 - y1
    slow = oracle.roi_mean(features[0], box, steps=math.lcm(x, y))
    torch.testing.assert_close(pooled[0, 0], slow)


def test_a_box_without_area_gives_zeros_and_finite_gradients() -> None:
    features = draw(0, 1, 2, 3, 3).requires_grad_()
    boxes = torch.zeros(1, 2, 4).double()
    pooled = roi_pool(features, boxes)
    assert not pooled.any()
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_region_pooling_passes_gradcheck() -> None:
    boxes = torch.tensor([[[0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: roi_pool(f, boxes), draw(0, 1, 2, 3, 4).requires_grad_())


def test_crops_show_their_region() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)  # brighter to the right
    boxes = torch.tensor([[[0, 0, 1, 1], [0.5, 0, 1, 0.5], [0.25, 0.25, 0.5, 0.5]]])
    crops = crop_regions(ramp, boxes, 8)
    assert crops.shape == (3, 1, 8, 8)
    torch.testing.assert_close(crops[1, 0, 0], torch.linspace(16.5, 30.5, 8))
    torch.testing.assert_close(crops[0, 0, 0], torch.linspace(1.5, 29.5, 8))
    torch.testing.assert_close(crops[2].mean(), torch.tensor(11.5))


def test_crops_keep_to_their_own_picture() -> None:
    images = torch.stack([torch.full((3, 8, 8), float(value)) for value in (1, 2)])
    crops = crop_regions(images, WHOLE.expand(2, 2, 4), 4)
    assert crops.mean(dim=(1, 2, 3)).tolist() == [1, 1, 2, 2]


def test_chunks_move_to_a_device_together() -> None:
    moved = TextChunks(*torch.zeros(3, 2, dtype=torch.long).unbind(), 1).to("meta")
    assert {tensor.device.type for tensor in (moved.owner, moved.start, moved.end)} == {"meta"}
