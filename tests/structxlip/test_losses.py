from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from structxlip.losses import (
    LogitScale,
    LossTerms,
    LossWeights,
    WeightSchedule,
    bounded_scale,
    combine,
    consistency_loss,
    local_alignment_loss,
    masked_contrastive_loss,
)
from tests.support import oracles_losses as oracle

LN3 = math.log(3)
EYE = torch.eye(2, dtype=torch.float64)
FEW = settings(max_examples=40, deadline=None)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]


def assert_same(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    fast_value, fast_gradients = value_and_gradients(fast, *inputs)
    slow_value, slow_gradients = value_and_gradients(slow, *inputs)
    torch.testing.assert_close(fast_value, slow_value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast_gradients, slow_gradients, rtol=1e-9, atol=1e-9)


masks = st.lists(st.booleans(), min_size=1, max_size=6)


# --- contrastive ---------------------------------------------------------------------------------------------


def test_matching_pairs_give_the_value_worked_out_by_hand() -> None:
    loss = masked_contrastive_loss(EYE, EYE, logit_scale=LN3)
    assert float(loss) == pytest.approx(0.287682, abs=1e-6)
    # e^(s·1) = 3 against e^0 = 1: the right one has probability 3/4.
    assert float(loss) == pytest.approx(math.log(4 / 3), abs=1e-12)


def test_swapped_pairs_give_the_value_worked_out_by_hand() -> None:
    loss = masked_contrastive_loss(EYE, EYE.flip(0), logit_scale=LN3)
    assert float(loss) == pytest.approx(1.386294, abs=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_pairs_that_all_look_alike_cost_the_logarithm_of_their_number(number: int, scale: float) -> None:
    same = torch.ones(number, 4, dtype=torch.float64)
    assert float(masked_contrastive_loss(same, same, logit_scale=scale)) == pytest.approx(math.log(number))


@pytest.mark.parametrize("content", [0.0, 1e30, math.nan, math.inf])
def test_a_masked_sample_changes_neither_value_nor_gradient_whatever_it_holds(content: float) -> None:
    query, key = draw(0, 3, 4), draw(1, 3, 4)
    valid = torch.tensor([True, True, False])
    query[2], key[2] = content, content
    value, gradients = value_and_gradients(
        lambda q, k: masked_contrastive_loss(q, k, logit_scale=5.0, valid_B=valid), query, key
    )
    expected, expected_gradients = value_and_gradients(
        lambda q, k: masked_contrastive_loss(q, k, logit_scale=5.0), query[:2], key[:2]
    )
    torch.testing.assert_close(value, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient[:2], other)
        assert torch.equal(gradient[2], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("num_valid", [0, 1])
def test_no_valid_pair_or_a_single_one_gives_zero_with_zero_gradients(num_valid: int) -> None:
    valid = torch.arange(3) < num_valid
    scale = torch.tensor(10.0, dtype=torch.float64)
    value, gradients = value_and_gradients(
        lambda q, k, s: masked_contrastive_loss(q, k, logit_scale=s, valid_B=valid),
        draw(0, 3, 4),
        draw(1, 3, 4),
        scale,
    )
    assert float(value) == 0
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_the_margin_gives_the_values_worked_out_by_hand() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)

    def loss(margin: float) -> float:
        return float(
            masked_contrastive_loss(texts, texts, logit_scale=4.0, hard_negative_margin=margin, margin_features=texts)
        )

    assert loss(0.5) == pytest.approx(0.313262, abs=1e-6)
    assert loss(0.0) == pytest.approx(0.126928, abs=1e-6)


def test_the_margin_sends_no_gradient_into_its_features() -> None:
    features = draw(2, 3, 4).requires_grad_()
    query = draw(0, 3, 4).requires_grad_()
    masked_contrastive_loss(
        query, draw(1, 3, 4), logit_scale=4.0, hard_negative_margin=0.5, margin_features=features
    ).backward()
    assert features.grad is None
    assert query.grad is not None


@FEW
@given(valid=masks, seed=st.integers(0, 9999), margin=st.sampled_from([0.0, 0.25, 0.5]))
def test_the_contrastive_loss_equals_the_loop_in_value_and_gradient(
    valid: list[bool], seed: int, margin: float
) -> None:
    number = len(valid)
    texts = draw(seed + 2, number, 3)
    assert_same(
        lambda q, k, s: masked_contrastive_loss(
            q,
            k,
            logit_scale=s,
            valid_B=torch.tensor(valid),
            hard_negative_margin=margin,
            margin_features=texts,
        ),
        lambda q, k, s: oracle.masked_contrastive_loss(q, k, s, valid, margin, texts),
        draw(seed, number, 5),
        draw(seed + 1, number, 5),
        torch.tensor(3.0, dtype=torch.float64),
    )


@FEW
@given(valid=masks, seed=st.integers(0, 9999), data=st.data())
def test_pairs_that_mean_the_same_are_no_negatives_of_each_other(
    valid: list[bool], seed: int, data: st.DataObject
) -> None:
    number = len(valid)
    meaning = data.draw(st.lists(st.integers(0, 2), min_size=number, max_size=number))
    assert_same(
        lambda q, k, s: masked_contrastive_loss(
            q, k, logit_scale=s, valid_B=torch.tensor(valid), meaning_B=torch.tensor(meaning)
        ),
        lambda q, k, s: oracle.masked_contrastive_loss(q, k, s, valid, meaning=meaning),
        draw(seed, number, 5),
        draw(seed + 1, number, 5),
        torch.tensor(3.0, dtype=torch.float64),
    )


def test_equal_pairs_of_one_meaning_cost_nothing() -> None:
    query = draw(0, 3, 4)
    loss = masked_contrastive_loss(query, query, logit_scale=5.0, meaning_B=torch.zeros(3, dtype=torch.int64))
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_the_contrastive_loss_passes_gradcheck() -> None:
    valid = torch.tensor([True, False, True, True])
    texts = draw(5, 4, 3)

    def loss(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
        return masked_contrastive_loss(
            query, key, logit_scale=scale, valid_B=valid, hard_negative_margin=0.5, margin_features=texts
        )

    inputs = (draw(0, 4, 3), draw(1, 4, 3), torch.tensor(2.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in inputs])


@FEW
@given(valid=st.lists(st.booleans(), min_size=2, max_size=6), seed=st.integers(0, 9999), data=st.data())
def test_the_order_of_the_pairs_and_of_the_sides_does_not_matter(
    valid: list[bool], seed: int, data: st.DataObject
) -> None:
    query, key, mask = draw(seed, len(valid), 4), draw(seed + 1, len(valid), 4), torch.tensor(valid)
    order = data.draw(st.permutations(range(len(valid))))
    loss = masked_contrastive_loss(query, key, logit_scale=7.0, valid_B=mask)
    torch.testing.assert_close(
        loss, masked_contrastive_loss(query[order], key[order], logit_scale=7.0, valid_B=mask[order])
    )
    torch.testing.assert_close(loss, masked_contrastive_loss(key, query, logit_scale=7.0, valid_B=mask))


def test_embeddings_need_not_have_unit_length() -> None:
    query, key = draw(0, 4, 3), draw(1, 4, 3)
    torch.testing.assert_close(
        masked_contrastive_loss(query, key, logit_scale=9.0),
        masked_contrastive_loss(3 * query, key / 7, logit_scale=9.0),
    )


def test_a_zero_embedding_keeps_gradients_finite() -> None:
    query = torch.zeros(2, 3).requires_grad_()
    masked_contrastive_loss(query, torch.eye(2, 3), logit_scale=1.0).backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_sides_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
        masked_contrastive_loss(torch.ones(2, 3), torch.ones(3, 3), logit_scale=1.0)


def test_a_margin_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="margin_features is missing"):
        masked_contrastive_loss(EYE, EYE, logit_scale=1.0, hard_negative_margin=0.5)


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="bool mask"):
        masked_contrastive_loss(EYE, EYE, logit_scale=1.0, valid_B=torch.ones(2))


# --- consistency ---------------------------------------------------------------------------------------------


def test_consistency_gives_the_value_and_gradient_worked_out_by_hand() -> None:
    colour = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    edge = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    value, (gradient,) = value_and_gradients(lambda e: consistency_loss(colour, e), edge)
    assert float(value) == pytest.approx(0.4, abs=1e-12)
    torch.testing.assert_close(gradient, torch.tensor([[-0.64, 0.48]], dtype=torch.float64))


def test_opposite_embeddings_have_the_largest_distance() -> None:
    colour = draw(0, 3, 4)
    for distance in ("cosine", "l2"):
        assert float(consistency_loss(colour, -3 * colour, distance=distance)) == pytest.approx(2)


def test_the_colour_side_moves_only_without_the_stop_gradient() -> None:
    inputs = draw(0, 3, 4), draw(1, 3, 4)
    _, (stopped, _) = value_and_gradients(lambda v, e: consistency_loss(v, e), *inputs)
    _, (free, _) = value_and_gradients(lambda v, e: consistency_loss(v, e, stop_gradient=False), *inputs)
    assert not stopped.any()
    assert free.abs().min() > 0


@FEW
@given(
    valid=masks,
    seed=st.integers(0, 9999),
    distance=st.sampled_from(["cosine", "l2"]),
    stop_gradient=st.booleans(),
)
def test_consistency_equals_the_loop_in_value_and_gradient(
    valid: list[bool], seed: int, distance: str, stop_gradient: bool
) -> None:
    assert_same(
        lambda v, e: consistency_loss(
            v,
            e,
            torch.tensor(valid),
            distance=distance,  # type: ignore[arg-type]
            stop_gradient=stop_gradient,
        ),
        lambda v, e: oracle.consistency_loss(v, e, valid, distance, stop_gradient),
        draw(seed, len(valid), 4),
        draw(seed + 1, len(valid), 4),
    )


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_equal_embeddings_cost_nothing_and_have_finite_gradients(distance: str) -> None:
    colour = torch.eye(3, dtype=torch.float64)
    value, (gradient,) = value_and_gradients(
        lambda e: consistency_loss(colour, e, distance=distance),  # type: ignore[arg-type]
        colour,
    )
    assert float(value) == 0
    assert gradient.isfinite().all()


def test_consistency_without_a_valid_pair_is_zero_with_a_graph() -> None:
    value, gradients = value_and_gradients(
        lambda v, e: consistency_loss(v, e, torch.zeros(2, dtype=torch.bool), stop_gradient=False),
        torch.full((2, 3), math.nan),
        torch.full((2, 3), math.nan),
    )
    assert float(value) == 0
    assert not any(gradient.any() for gradient in gradients)


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="manhattan"):
        consistency_loss(EYE, EYE, distance="manhattan")  # type: ignore[arg-type]


# --- local ---------------------------------------------------------------------------------------------------


def test_the_local_loss_gives_the_value_worked_out_by_hand() -> None:
    regions = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 5.0], [math.nan, 9.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, True], [True, False]])
    loss = local_alignment_loss(EYE, torch.tensor([0, 1]), regions, valid, scale=LN3)
    assert float(loss) == pytest.approx(0.332488, abs=1e-6)
    assert float(loss) == pytest.approx((math.log(7 / 6) + math.log(5 / 3)) / 2, abs=1e-12)


def test_regions_that_all_look_alike_cost_the_logarithm_of_valid_over_own() -> None:
    valid = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    owners = torch.tensor([0, 0, 0, 1, 2])
    loss = local_alignment_loss(torch.ones(5, 4), owners, torch.ones(3, 3, 4), valid, scale=20.0)
    expected = sum(math.log(6 / own) for own in (3, 1, 2)) / 3
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_a_single_image_has_nothing_to_be_told_from() -> None:
    loss = local_alignment_loss(
        draw(0, 3, 4),
        torch.tensor([0, 0, 0]),
        draw(1, 1, 5, 4),
        torch.ones(1, 5, dtype=torch.bool),
        scale=10.0,
    )
    assert float(loss) == pytest.approx(0, abs=1e-12)


@st.composite
def local_batches(draw_value: st.DrawFn) -> tuple[list[int], list[list[bool]], int]:
    num_images, num_regions = draw_value(st.integers(1, 4)), draw_value(st.integers(1, 3))
    owners = draw_value(st.lists(st.integers(-1, num_images - 1), min_size=1, max_size=7))
    row = st.lists(st.booleans(), min_size=num_regions, max_size=num_regions)
    valid = draw_value(st.lists(row, min_size=num_images, max_size=num_images))
    return owners, valid, draw_value(st.integers(0, 9999))


@pytest.mark.parametrize("positives", ["owner", "hard", "soft"])
@FEW
@given(batch=local_batches())
def test_the_local_loss_equals_the_loop_in_value_and_gradient(
    positives: str, batch: tuple[list[int], list[list[bool]], int]
) -> None:
    owners, valid, seed = batch
    assert_same(
        lambda c, r, s: local_alignment_loss(
            c,
            torch.tensor(owners),
            r,
            torch.tensor(valid),
            scale=s,
            positives=positives,  # type: ignore[arg-type]
        ),
        lambda c, r, s: oracle.local_alignment_loss(c, owners, r, valid, s, positives),
        draw(seed, len(owners), 4),
        draw(seed + 1, len(valid), len(valid[0]), 4),
        torch.tensor(4.0, dtype=torch.float64),
    )


@pytest.mark.parametrize("positives", ["owner", "hard"])
def test_the_local_loss_passes_gradcheck(positives: str) -> None:
    owners = torch.tensor([0, 1, 1, -1, 2])
    valid = torch.tensor([[True, True], [True, False], [False, False]])

    def loss(chunks: Tensor, regions: Tensor, scale: Tensor) -> Tensor:
        return local_alignment_loss(
            chunks,
            owners,
            regions,
            valid,
            scale=scale,
            positives=positives,  # type: ignore[arg-type]
        )

    inputs = (draw(0, 5, 3), draw(1, 3, 2, 3), torch.tensor(2.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in inputs])


def test_padding_chunks_and_missing_regions_may_hold_anything() -> None:
    chunks, regions = draw(0, 3, 4), draw(1, 2, 2, 4)
    chunks[2], regions[1, 1] = math.nan, math.inf
    owners, valid = torch.tensor([0, 1, -1]), torch.tensor([[True, True], [True, False]])
    value, gradients = value_and_gradients(
        lambda c, r: local_alignment_loss(c, owners, r, valid, scale=5.0), chunks, regions
    )
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][2].any()
    assert not gradients[1][1, 1].any()


@pytest.mark.parametrize("positives", ["owner", "hard", "soft"])
def test_a_batch_without_chunks_or_regions_gives_zero_with_a_graph(positives: str) -> None:
    some, none = torch.tensor([0, 1]), torch.tensor([-1, -1])
    for owners, is_valid in ((some, False), (none, True), (none, False)):
        value, gradients = value_and_gradients(
            lambda c, r, o=owners, v=is_valid: local_alignment_loss(
                c,
                o,
                r,
                torch.full((2, 3), v),
                scale=5.0,
                positives=positives,  # type: ignore[arg-type]
            ),
            draw(0, 2, 4),
            draw(1, 2, 3, 4),
        )
        assert float(value) == 0
        assert not any(gradient.any() for gradient in gradients)


@FEW
@given(batch=local_batches(), data=st.data())
def test_the_order_of_chunks_images_and_regions_does_not_matter(
    batch: tuple[list[int], list[list[bool]], int], data: st.DataObject
) -> None:
    owners, valid, seed = batch
    chunks, regions = draw(seed, len(owners), 4), draw(seed + 1, len(valid), len(valid[0]), 4)
    chunk_order = data.draw(st.permutations(range(len(owners))))
    image_order = data.draw(st.permutations(range(len(valid))))
    region_order = data.draw(st.permutations(range(len(valid[0]))))
    new_place = {old: new for new, old in enumerate(image_order)} | {-1: -1}
    mask = torch.tensor(valid)
    torch.testing.assert_close(
        local_alignment_loss(chunks, torch.tensor(owners), regions, mask, scale=5.0),
        local_alignment_loss(
            chunks[chunk_order],
            torch.tensor([new_place[owners[index]] for index in chunk_order]),
            regions[image_order][:, region_order],
            mask[image_order][:, region_order],
            scale=5.0,
        ),
    )


def test_a_caption_counts_once_however_many_chunks_it_has() -> None:
    chunks, regions = draw(0, 2, 4), draw(1, 2, 3, 4)
    mask = torch.ones(2, 3, dtype=torch.bool)
    once = local_alignment_loss(chunks, torch.tensor([0, 1]), regions, mask, scale=5.0)
    often = local_alignment_loss(chunks[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 1]), regions, mask, scale=5.0)
    torch.testing.assert_close(once, often)


def test_local_inputs_that_do_not_belong_together_are_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        local_alignment_loss(torch.ones(4, 5), torch.zeros(4), torch.ones(2, 3, 4), mask, scale=1.0)
    with pytest.raises(ValueError, match="integer owners"):
        local_alignment_loss(torch.ones(4, 4), torch.zeros(4), torch.ones(2, 3, 4), mask, scale=1.0)
    with pytest.raises(ValueError, match="bool mask"):
        local_alignment_loss(torch.ones(4, 4), torch.zeros(4).long(), torch.ones(2, 3, 4), mask.T.clone(), scale=1.0)


@pytest.mark.parametrize("positives", ["owner", "hard", "soft"])
def test_no_nan_appears_on_the_way_back_from_a_batch_without_valid_samples(positives: str) -> None:
    query, key, regions = (draw(seed, 3, 4).requires_grad_() for seed in range(3))
    nothing = torch.zeros(3, dtype=torch.bool)
    with torch.autograd.set_detect_anomaly(True):  # raises at the first NaN, also at one that is masked later
        total = masked_contrastive_loss(query, key, logit_scale=5.0, valid_B=nothing)
        total = total + consistency_loss(query, key, nothing, stop_gradient=False)
        total = total + local_alignment_loss(
            query,
            torch.tensor([0, 1, -1]),
            regions[:, None],
            nothing[:, None],
            scale=5.0,
            positives=positives,  # type: ignore[arg-type]
        )
        total.backward()
    assert total.item() == 0


@pytest.mark.parametrize("positives", ["owner", "hard", "soft"])
def test_no_loss_ever_waits_for_the_device(positives: str) -> None:
    # Fake tensors have shapes and no values: `.item()`, boolean indexing and `nonzero` raise.
    with FakeTensorMode():
        query, key, regions = (torch.randn(s, requires_grad=True) for s in ((4, 3), (4, 3), (4, 2, 3)))
        valid, region_valid = torch.ones(4, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool)
        scale = LogitScale()
        total = masked_contrastive_loss(
            query,
            key,
            logit_scale=scale(),
            valid_B=valid,
            hard_negative_margin=0.5,
            margin_features=key,
        )
        total = total + consistency_loss(query, key, valid) + consistency_loss(query, key, distance="l2")
        owners = torch.zeros(4, dtype=torch.long)
        total = total + local_alignment_loss(
            query,
            owners,
            regions,
            region_valid,
            scale=scale(),
            positives=positives,  # type: ignore[arg-type]
        )
        total.backward()
        with pytest.raises(DataDependentOutputException):
            total.item()


# --- precision, scales, weights --------------------------------------------------------------------------------


def test_autocast_leaves_the_losses_finite_and_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(16, 8, generator=generator).bfloat16().requires_grad_() for _ in range(2))
    regions = torch.randn(16, 3, 8, generator=generator).bfloat16().requires_grad_()
    mask = torch.ones(16, 3, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            masked_contrastive_loss(query, key, logit_scale=100.0),
            consistency_loss(query, key),
            local_alignment_loss(query, torch.arange(16), regions, mask, scale=100.0),
        ]
        without = masked_contrastive_loss(query.float(), key.float(), logit_scale=100.0)
    assert all(loss.dtype == torch.float32 for loss in losses)
    # Products in bfloat16 would differ in the second or third digit at this scale.
    torch.testing.assert_close(losses[0], without, rtol=1e-6, atol=0)
    sum(losses, start=torch.zeros(())).backward()
    for tensor in (query, key, regions):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_identical_pairs_at_the_largest_scale_stay_finite_in_float32() -> None:
    features = torch.eye(8).requires_grad_()
    loss = masked_contrastive_loss(features, features, logit_scale=100.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("initial", [0.5, 1 / 0.07, 33.2, 99.9])
def test_a_scale_is_what_it_was_set_to_and_learns_from_the_first_step(initial: float) -> None:
    # The public code's local scale, min(exp(x) / τ, 100), starts at its bound and never moves.
    scale = LogitScale(initial)
    assert scale().item() == pytest.approx(initial, rel=1e-5)
    masked_contrastive_loss(draw(0, 4, 3), draw(1, 4, 3), logit_scale=scale()).backward()
    assert scale.log_scale.grad is not None
    assert float(scale.log_scale.grad) != 0


def test_a_step_of_the_optimiser_does_not_make_the_scale_jump() -> None:
    # The public code clamps the logarithm to 3.5 after the first step: 100 becomes 33.
    scale = LogitScale(100.0)
    optimiser = torch.optim.SGD(scale.parameters(), lr=1e-4)
    masked_contrastive_loss(draw(0, 4, 3), draw(1, 4, 3), logit_scale=scale()).backward()
    optimiser.step()
    assert scale().item() == pytest.approx(100, rel=0.01)


def test_a_scale_beyond_its_bound_is_cut_and_finds_its_way_back() -> None:
    log_scale = torch.tensor(6.0, requires_grad=True)
    assert bounded_scale(log_scale).item() == 100
    bounded_scale(log_scale).backward()  # a loss that falls with the scale: the step leads back
    assert log_scale.grad is not None
    assert float(log_scale.grad) > 0
    log_scale.grad = None
    (-bounded_scale(log_scale)).backward()  # one that rises with it: further out is no use
    assert float(log_scale.grad) == 0


def test_an_initial_scale_above_the_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 100"):
        LogitScale(101)


def test_the_weighted_sum_leaves_out_what_is_missing_or_weighs_nothing() -> None:
    nan = torch.tensor(math.nan)
    terms = LossTerms(torch.tensor(2.0), structure=torch.tensor(3.0), consistency=nan, local=None)
    weights = LossWeights(contrastive=1.0, structure=0.5, consistency=0.0, local=0.1)
    assert float(combine(terms, weights)) == 3.5
    assert math.isnan(float(combine(terms, LossWeights())))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="structure"):
        LossWeights(structure=value)


def test_weights_are_held_then_fall_to_their_published_floors_at_epoch_8_of_10() -> None:
    schedule = WeightSchedule(LossWeights(1.0, 0.5, 0.05, 0.1))
    assert schedule.at(0.0) == schedule.at(0.2) == schedule.base
    end = schedule.at(8 / 10)
    assert (end.contrastive, end.structure, end.consistency, end.local) == pytest.approx((1.0, 0.35, 0.025, 0.04))
    assert schedule.at(1.0) == end
    middle = schedule.at(0.5)
    assert middle.structure == pytest.approx((0.5 + 0.35) / 2)
    assert middle.local == pytest.approx((0.1 + 0.04) / 2)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_weights_never_rise(progress: list[float]) -> None:
    schedule = WeightSchedule()
    weights = [schedule.at(share).structure for share in sorted(progress)]
    assert weights == sorted(weights, reverse=True)


def test_a_schedule_that_settles_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="hold_until"):
        WeightSchedule(hold_until=0.8, settle_at=0.5)
