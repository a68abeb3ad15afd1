"""Batches that mix both views with single ones."""

from __future__ import annotations

import numpy as np

from service.encoding import EmbeddedText, OneView, PictureView, TextView, encode_pictures, encode_texts, prepare_view
from structxlip.backends.agreement import drawn_pictures
from structxlip.encoder import TwoViewEncoder


def test_a_batch_of_pictures_may_mix_views(tiny_encoder: TwoViewEncoder) -> None:
    first, second = drawn_pictures(2)
    prepared = [tiny_encoder.prepare_image(rgb) for rgb in (first, second)]
    parts = [prepare_view(tiny_encoder, second, view) for view in ("appearance", "structure")]
    np.testing.assert_array_equal(parts[0].pixels, prepared[1].rgb)
    np.testing.assert_array_equal(parts[1].pixels, prepared[1].edges)

    rows = encode_pictures(tiny_encoder, [parts[1], prepared[0], parts[0], prepared[1]])

    assert isinstance(rows[0], OneView)
    assert isinstance(rows[2], OneView)
    assert isinstance(rows[1], tuple)
    assert isinstance(rows[3], tuple)
    np.testing.assert_allclose(rows[0].vector, rows[3][1], atol=1e-5)
    np.testing.assert_allclose(rows[2].vector, rows[3][0], atol=1e-5)
    assert not np.allclose(rows[1][0], rows[3][0], atol=1e-3)


def test_only_what_is_asked_for_is_run(tiny_encoder: TwoViewEncoder) -> None:
    class NoEdges:
        def detect(self, rgb: object) -> object:
            raise AssertionError("lines are not wanted")

    kept = tiny_encoder.edge_detector
    tiny_encoder.edge_detector = NoEdges()  # type: ignore[assignment]
    try:
        part = prepare_view(tiny_encoder, drawn_pictures(1)[0], "appearance")
    finally:
        tiny_encoder.edge_detector = kept
    assert part == PictureView("appearance", part.pixels)
    assert len(encode_pictures(tiny_encoder, [part])) == 1


def test_a_batch_of_texts_may_mix_views(tiny_encoder: TwoViewEncoder) -> None:
    text = "a red chair left of a blue table"
    rows = encode_texts(tiny_encoder, [TextView("structure", text), "two dogs", TextView("appearance", text), text])
    structure, other, appearance, both = rows
    assert isinstance(structure, OneView)
    assert isinstance(appearance, OneView)
    assert isinstance(other, EmbeddedText)
    assert isinstance(both, EmbeddedText)
    np.testing.assert_allclose(structure.vector, both.structure, atol=1e-5)
    np.testing.assert_allclose(appearance.vector, both.appearance, atol=1e-5)
    assert structure.num_tokens < appearance.num_tokens == both.num_tokens
