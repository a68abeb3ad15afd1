"""The converted towers compute what the modules do: any batch, any length, from many threads, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from structxlip.backends import openvino_cpu
from structxlip.backends.agreement import MIN_COSINE, batches_of, drawn_pictures, make_probes, smallest_cosine
from structxlip.backends.eager import torch_towers
from structxlip.backends.selection import Execution
from structxlip.encoder import TwoViewEncoder
from structxlip.errors import ConfigError, ModelUnavailableError
from structxlip.models import load_encoder
from tests.structxlip.test_text_tower import COCA, variant
from tests.support.chosen_towers import select_towers
from tests.support.resident import resident_bytes
from tests.support.shared_data import REPOSITORY, shared_path
from tests.support.tiny_open_clip import write_tiny_open_clip

pytest.importorskip("openvino")

TEXTS = ["two stools", "a shiny red table left of two blue chairs, and above them a round lamp", "a lamp " * 60]
ON_OPENVINO = Execution("openvino")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> TwoViewEncoder:
    return load_encoder(f"local-dir:{tiny}", device="cpu", execution=ON_OPENVINO)


@pytest.fixture(scope="module")
def scenes() -> TwoViewEncoder:
    return load_encoder("scenes-tiny", device="cpu", execution=ON_OPENVINO)


def assert_embeds_like_torch(encoder: TwoViewEncoder, pictures: list[NDArray[np.uint8]]) -> None:
    fast = encoder.towers
    assert fast.describe() == dict.fromkeys(("images", "edges", "tokens"), "openvino f32")
    images = [encoder.prepare_image(rgb) for rgb in pictures]
    texts = [encoder.prepare_text(text) for text in TEXTS]
    found = encoder.encode_images(images), encoder.encode_images(images[:1]), encoder.encode_texts(texts)
    encoder.run_on(torch_towers(encoder))
    expected = encoder.encode_images(images), encoder.encode_images(images[:1]), encoder.encode_texts(texts)
    encoder.run_on(fast)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.appearance, theirs.appearance, atol=5e-6)
        np.testing.assert_allclose(ours.structure, theirs.structure, atol=5e-6)


def test_the_bundled_checkpoint_embeds_as_with_torch(scenes: TwoViewEncoder) -> None:
    assert scenes.edge_branch is not None
    assert_embeds_like_torch(scenes, drawn_pictures(11))


def test_a_shared_edge_branch_needs_no_second_image_tower(encoder: TwoViewEncoder) -> None:
    assert encoder.edge_branch is None
    assert_embeds_like_torch(encoder, drawn_pictures(11))


def test_a_real_model_embeds_photographs_as_with_torch() -> None:
    from PIL import Image

    encoder = load_encoder(f"local-dir:{shared_path('weights/photo-mini')}", device="cpu", execution=ON_OPENVINO)
    files = sorted((shared_path("data/photos") / "images").rglob("*.jpg"))[::600]
    assert_embeds_like_torch(encoder, [np.asarray(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize("architecture", [COCA, variant(text_cfg={"pool_type": "last"})], ids=["CoCa", "not cuttable"])
def test_other_towers_convert_too(architecture: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model", architecture=architecture)
    assert_embeds_like_torch(
        load_encoder(f"local-dir:{folder}", device="cpu", execution=ON_OPENVINO), drawn_pictures(2)
    )


@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_batch_and_length_are_free(encoder: TwoViewEncoder, size: int) -> None:
    rng = np.random.default_rng(size)
    rgb = rng.integers(0, 256, size=(size, 64, 64, 3), dtype=np.uint8)
    reference = torch_towers(encoder)
    assert smallest_cosine(encoder.towers.images, reference.images, [rgb]) > MIN_COSINE["f32"]
    batches = [rng.integers(1, 49407, size=(size, length)) for length in (2, 3, 20, 76, 77)]
    for batch in batches:
        batch[:, -1] = 49407
    assert smallest_cosine(encoder.towers.tokens, reference.tokens, batches) > MIN_COSINE["f32"]


def test_many_threads_never_get_each_others_rows(encoder: TwoViewEncoder) -> None:
    texts = [encoder.tokenize([f"{number} tables " * (1 + number % 7)]).numpy() for number in range(64)]
    expected = [encoder.towers.tokens(tokens) for tokens in texts]
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(encoder.towers.tokens, texts * 4))
    for ours, theirs in zip(found, expected * 4, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rows_are_the_callers_own(encoder: TwoViewEncoder) -> None:
    one, other = (encoder.tokenize([text]).numpy() for text in TEXTS[:2])
    first = encoder.towers.tokens(one)
    kept = first.copy()
    assert np.abs(encoder.towers.tokens(other) - first).max() > 0.01
    np.testing.assert_array_equal(first, kept)


def test_memory_does_not_grow_with_the_number_of_different_batches(encoder: TwoViewEncoder) -> None:
    def resident_mebibytes() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            encoder.towers.tokens(rng.integers(1, 49407, size=(int(rng.integers(1, 33)), int(rng.integers(2, 78)))))
            encoder.towers.images(np.zeros((int(rng.integers(1, 33)), 64, 64, 3), np.uint8))

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    work(0)
    before = resident_mebibytes()
    work(1)
    assert resident_mebibytes() - before < 32


def test_bf16_is_near_float32_and_shares_its_fingerprint(encoder: TwoViewEncoder, tiny: Path) -> None:
    if not openvino_cpu.supports_bf16():
        pytest.skip("this processor has no bf16")
    fast = load_encoder(f"local-dir:{tiny}", device="cpu", execution=Execution("openvino", "bf16"))
    assert fast.fingerprint == encoder.fingerprint
    assert fast.describe()["execution"]["tokens"] == "openvino bf16"  # type: ignore[call-overload, index]
    probes, reference = make_probes(fast), torch_towers(fast)
    cosine = smallest_cosine(fast.towers.tokens, reference.tokens, batches_of(probes, "tokens"))
    assert MIN_COSINE["bf16"] <= cosine < 0.9999999


def test_a_tower_that_bf16_changes_too_much_stays_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    name = f"local-dir:{shared_path('weights/photo-mini')}"
    if not openvino_cpu.supports_bf16():
        pytest.skip("this processor has no bf16")
    encoder = load_encoder(name, device="cpu", execution=Execution("openvino", "bf16"))
    # Its MobileNet loses a cosine of 0.991 in bf16, its text tower nothing.
    assert encoder.towers.describe() == {"images": "openvino f32", "edges": "openvino f32", "tokens": "openvino bf16"}
    assert "openvino bf16 is not used for the images: cosine to float32 0.99" in caplog.text


def test_a_processor_without_bf16_computes_in_float32(
    encoder: TwoViewEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_cpu, "supports_bf16", lambda: False)
    towers = select_towers(encoder, Execution("openvino", "bf16"))
    assert set(towers.describe().values()) == {"openvino f32"}
    assert "this processor has no bf16 matrix products; f32 is used" in caplog.text


def test_towers_that_compute_something_else_are_refused(
    encoder: TwoViewEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path / 'other', seed=7)}", device="cpu")
    models = openvino_cpu.convert(other)
    monkeypatch.setattr(openvino_cpu, "convert", lambda encoder: models)
    towers = select_towers(encoder, ON_OPENVINO)
    assert set(towers.describe().values()) == {"torch f32"}
    assert "openvino f32 is not used for the tokens" in caplog.text


def test_a_model_that_cannot_be_converted_runs_on_torch(
    encoder: TwoViewEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(encoder: TwoViewEncoder) -> None:
        raise RuntimeError("no translator for aten::new_thing\nand more")

    monkeypatch.setattr(openvino_cpu, "convert", fail)
    assert set(select_towers(encoder, ON_OPENVINO).describe().values()) == {"torch f32"}
    assert "openvino cannot take this model, torch runs it: RuntimeError: no translator for aten::new_thing" in (
        caplog.text
    )
    assert "and more" not in caplog.text


def test_without_the_package_auto_takes_torch_and_openvino_says_what_to_install(
    encoder: TwoViewEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert set(select_towers(encoder, Execution("auto")).describe().values()) == {"torch f32"}
    with pytest.raises(ModelUnavailableError, match=r"pip install 'structxlip\[cpu\]'"):
        select_towers(encoder, ON_OPENVINO)


def test_it_runs_on_the_cpu_only(tiny: Path) -> None:
    encoder = load_encoder(f"local-dir:{tiny}", device="cpu")
    encoder.device = "cuda"
    with pytest.raises(ConfigError, match="runs on the CPU, the device is 'cuda'"):
        select_towers(encoder, ON_OPENVINO)


def test_torchs_copy_of_the_weights_leaves_memory(tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=False)
    encoder = load_encoder(f"local-dir:{folder}", device="cpu", execution=ON_OPENVINO)
    weights = folder / "open_clip_model.safetensors"
    encoder.encode_texts([encoder.prepare_text("a red table left of a chair")])
    encoder.encode_images([encoder.prepare_image(rgb) for rgb in drawn_pictures(2)])
    # A few small tensors and the vectors of a few words are still read where they lie.
    assert resident_bytes(weights) < 0.2 * weights.stat().st_size
    assert_embeds_like_torch(encoder, drawn_pictures(2))  # torch reads them again
    assert resident_bytes(weights) > 0


def test_slices_of_a_weight_lie_in_the_weight(tiny: Path) -> None:
    encoder = load_encoder(f"local-dir:{tiny}", device="cpu")
    attention: Any = encoder.model.visual.transformer.resblocks[0].attn  # type: ignore[union-attr, index]
    rows = attention.in_proj_weight.detach().numpy()
    constants = [
        op.data for op in openvino_cpu.convert(encoder)["images"].get_ops() if op.get_type_name() == "Constant"
    ]
    for third in np.split(rows, 3):
        assert any(each.shape == third.shape and np.shares_memory(each, third) for each in constants)


def test_the_number_of_threads_reaches_it(encoder: TwoViewEncoder, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        towers: Any = select_towers(encoder, Execution("openvino", threads=1))
    finally:
        torch.set_num_threads(before)
    assert towers.tokens._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_loading_with_it_is_silent_and_reports_to_nobody(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom structxlip.models import load_encoder\nfrom structxlip.backends.selection import Execution\n"
        f"encoder = load_encoder('local-dir:{tiny}', device='cpu', execution=Execution('openvino'))\n"
        "assert encoder.towers.images.backend == 'openvino'\n"
        "print(sorted(name for name in sys.modules if 'telemetry' in name and sys.modules[name] is not None))"
    )
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (told.stdout.strip(), told.stderr) == ("['openvino.tools.ovc.telemetry_params', "
        "'openvino.tools.ovc.telemetry_stub', 'openvino.tools.ovc.telemetry_utils']", "")  # fmt: skip
    assert [path for path in tmp_path.iterdir() if path.name != ".cache"] == []


def test_signals_are_handled_after_models_are_gone(tiny: Path) -> None:
    code = (
        "import gc, signal\nfrom structxlip.models import load_encoder\n"
        "from structxlip.backends.selection import Execution\n"
        f"def load(): return load_encoder('local-dir:{tiny}', device='cpu', execution=Execution('openvino'))\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "first, second = load(), load()\ndel first\ngc.collect()\ndel second\ngc.collect()\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_the_check_itself_notices_what_it_should(encoder: TwoViewEncoder) -> None:
    class Off:
        backend, precision = "openvino", "f32"

        def __init__(self, change: Any) -> None:
            self.change = change

        def __call__(self, items: NDArray[Any]) -> NDArray[np.float32]:
            return np.asarray(self.change(reference.tokens(items)), dtype=np.float32)

    reference = torch_towers(encoder)
    batches = batches_of(make_probes(encoder), "tokens")

    def cosine(change: Any) -> float:
        return smallest_cosine(Off(change), reference.tokens, batches)  # type: ignore[arg-type]

    assert cosine(lambda rows: rows) == pytest.approx(1, abs=1e-9)
    assert cosine(lambda rows: rows[::-1]) < 0.99  # rows in another order
    assert cosine(lambda rows: rows * 1.01) == -1  # not of unit length
    assert cosine(lambda rows: rows * np.nan) == -1
    assert cosine(lambda rows: rows[:, :-1]) == -1
