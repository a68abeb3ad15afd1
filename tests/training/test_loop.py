from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from structxlip.models import load_encoder
from tests.support.tiny_open_clip import tiny_architecture, write_tiny_open_clip
from tests.training.builders import tiny_config, tiny_tree
from training.config import TrainingConfigError, parse_source
from training.data import DataError, open_source
from training.logs import read_table
from training.loop import (
    TrainingStoppedError,
    add_gradients,
    epoch_batches,
    prepare,
    save_run_checkpoint,
    take_step,
    train,
)
from training.objective import weight_schedule
from training.start import zero_unseen_words
from training.state import RunStateError, load_state, read_state, save_state

ROOT = Path(__file__).parents[2]


def final_weights(folder: Path) -> dict[str, Tensor]:
    state = read_state(folder)
    assert state is not None
    return {**state["encoder"], **{f"average.{name}": tensor for name, tensor in state["average"].items()}}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing, f"{len(differing)} of {len(left)} weights differ, such as {differing[:3]}"


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def start(config: Path, *launcher: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "training.train", str(config)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(read_table(folder / "steps.csv")) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run makes no steps"
        time.sleep(0.02)


def test_a_run_learns_its_pairs_by_heart(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, optimiser__epochs=25, regime__batch_size=24, optimiser__ema_decay=0.0))
    losses = [row["contrastive"] for row in read_table(tmp_path / "steps.csv")]
    assert losses[-1] < 0.6 * losses[0]


def test_every_loss_is_logged_and_the_checkpoints_can_be_served(tmp_path: Path) -> None:
    result = train(tiny_config(tmp_path))
    assert result.is_finished
    steps = read_table(tmp_path / "steps.csv")
    assert len(steps) == 6
    assert {"loss", "contrastive", "structure", "consistency", "local", "lr", "grad_norm", "img_per_s"} <= steps[
        0
    ].keys()
    assert len(read_table(tmp_path / "validation.csv")) == 2
    assert list((tmp_path / "tensorboard").iterdir())
    for name in ("best", "last"):
        encoder = load_encoder(str(tmp_path / name), device="cpu")
        assert encoder.structure_is_trained
        assert encoder.context_length == 120


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(tiny_config(tmp_path / name))
    assert_same(final_weights(tmp_path / "one"), final_weights(tmp_path / "two"))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path, optimiser: str) -> None:
    changes: dict[str, Any] = {"data__augmentation": {"min_crop_area": 0.7, "flip": True}, "optimiser__epochs": 2}
    changes["optimiser__kind"] = optimiser
    train(tiny_config(tmp_path / "whole", **changes))
    config = tiny_config(tmp_path / "parts", **changes)
    interrupted_after = []
    for step in (2, 4):

        def interrupt(at: int = step) -> None:
            while len(read_table(tmp_path / "parts" / "steps.csv")) < at:
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        result = train(config)
        thread.join()
        interrupted_after.append(result.course.total_steps)
        if result.is_finished:
            break
        assert result.course.total_steps >= step
    assert interrupted_after[0] < 6, "the first interruption came too late to test anything"
    assert train(config).is_finished
    assert_same(final_weights(tmp_path / "parts"), final_weights(tmp_path / "whole"))
    whole, parts = (read_table(tmp_path / name / "steps.csv") for name in ("whole", "parts"))
    assert [row["loss"] for row in parts] == [row["loss"] for row in whole]
    assert [row["step"] for row in parts] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_killed_run_is_taken_up_bit_for_bit(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"saving__every_steps": 2, "optimiser__epochs": 4}
    train(tiny_config(tmp_path / "whole", **changes))
    tree = tiny_tree(tmp_path / "killed", **changes)
    process = start(write_config(tmp_path / "run.yaml", tree))
    wait_for_steps(tmp_path / "killed", 3, process)
    process.kill()
    process.communicate()
    state = read_state(tmp_path / "killed")
    assert state is not None
    assert 0 < state["course"]["total_steps"] < 12
    assert train(tiny_config(tmp_path / "killed", **changes)).is_finished
    assert_same(final_weights(tmp_path / "killed"), final_weights(tmp_path / "whole"))


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", optimiser__epochs=400)
    process = start(write_config(tmp_path / "run.yaml", tree))
    wait_for_steps(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 130, told
    assert "the same command goes on from here" in told
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["course"]["total_steps"] >= 2


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    train(config)
    before = final_weights(tmp_path)
    assert train(config).course.total_steps == 6
    assert_same(final_weights(tmp_path), before)


def test_another_configuration_in_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, optimiser__epochs=1))
    with pytest.raises(TrainingConfigError, match=r"optimiser\.lr was 0\.001, now 0\.01"):
        train(tiny_config(tmp_path, optimiser__epochs=1, optimiser__lr=1e-2))
    train(tiny_config(tmp_path, optimiser__epochs=1, regime__num_threads=2))


def test_grad_cache_gives_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    def gradients(micro_batch: int) -> tuple[dict[str, Tensor], float]:
        run = prepare(tiny_config(tmp_path / str(micro_batch), regime__micro_batch=micro_batch))
        batches = next(epoch_batches(run))
        assert [len(batch) for batch in batches] == ([3, 3, 2] if micro_batch else [8])
        loss, _ = add_gradients(run, batches, weight_schedule(run.config.loss).at(0))
        return {k.name: k.parameter.grad.clone() for k in run.parameters if k.parameter.grad is not None}, float(loss)

    whole, whole_loss = gradients(0)
    parts, parts_loss = gradients(3)
    assert parts_loss == pytest.approx(whole_loss, rel=1e-5)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_processes_of_torchrun_make_the_steps_of_one_process(tmp_path: Path, number: int) -> None:
    changes: dict[str, Any] = {"optimiser__epochs": 1, "optimiser__ema_decay": 0.0}
    train(tiny_config(tmp_path / "one", **changes))
    config = write_config(tmp_path / "run.yaml", tiny_tree(tmp_path / "several", **changes))
    process = start(config, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number))
    told, _ = process.communicate(timeout=500)
    assert process.returncode == 0, told
    one, several = (read_table(tmp_path / name / "steps.csv") for name in ("one", "several"))
    for name in ("loss", "contrastive", "structure", "consistency", "local", "grad_norm"):
        assert [row[name] for row in several] == pytest.approx([row[name] for row in one], rel=1e-3), name


def test_nothing_of_the_group_of_processes_outlives_a_run(tmp_path: Path) -> None:
    # A thread of gloo that is still there while the interpreter goes sometimes aborts it.
    script = tmp_path / "look.py"
    script.write_text(
        "from pathlib import Path\n"
        "import torch\n"
        "from training.commands import _ranks\n"
        "with _ranks() as ranks:\n"
        "    import training.loop\n"
        "    assert ranks.sum(torch.ones(1)) == 2\n"
        "names = {path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')}\n"
        "print(' '.join([*names, 'end']), flush=True)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launcher, env=environment, text=True, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("end") == 2
    assert "gloo" not in done.stdout


def test_a_batch_that_four_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    from structxlip.gather import Ranks

    with pytest.raises(TrainingConfigError, match="3 processes cannot share"):
        prepare(tiny_config(tmp_path), Ranks(0, 3))


def test_a_pair_with_features_that_are_no_numbers_stops_the_run_and_is_named(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path, optimiser__lr=1e-4))
    batches = next(epoch_batches(run))
    tokens = batches[0].tokens
    # A word that some captions of the batch have and others do not.
    counts = {int(t): int((tokens == t).any(dim=1).sum()) for t in tokens.unique() if t not in (0, 49406, 49407)}
    word = next(t for t, count in counts.items() if count == 2)
    table: Tensor = run.learner.encoder.model.token_embedding.weight  # type: ignore[union-attr, assignment]
    with torch.no_grad():
        table[word] = torch.nan
    before = {k.name: k.parameter.detach().clone() for k in run.parameters if "token_embedding" not in k.name}
    with pytest.raises(TrainingStoppedError) as caught:
        take_step(run, batches)
    for key, row in zip(batches[0].keys, tokens, strict=True):
        assert (key in str(caught.value)) == bool((row == word).any())
    assert "step 1" in str(caught.value)
    assert all(torch.equal(k.parameter, before[k.name]) for k in run.parameters if k.name in before)


def test_a_loss_that_is_no_number_names_the_whole_batch(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path))
    with torch.no_grad():
        run.learner.encoder.model.logit_scale.fill_(torch.nan)  # type: ignore[operator, union-attr]
    batches = next(epoch_batches(run))
    with pytest.raises(TrainingStoppedError) as caught:
        take_step(run, batches)
    assert all(key in str(caught.value) for key in batches[0].keys)


def test_a_full_disk_leaves_the_state_and_the_checkpoint_before(tmp_path: Path) -> None:
    from structxlip.errors import CheckpointWriteError

    config = tiny_config(tmp_path, optimiser__epochs=1)
    train(config)
    before = final_weights(tmp_path)
    run = prepare(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(RunStateError, match="untouched"):
            save_state(tmp_path, run.learner, config.to_dict(), run.ranks)
        with pytest.raises(CheckpointWriteError):
            save_run_checkpoint(run, "best", 0.5, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(final_weights(tmp_path), before)
    load_encoder(str(tmp_path / "best"), device="cpu")


def test_a_damaged_state_is_told_and_not_guessed_at(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, optimiser__epochs=1)
    train(config)
    path = tmp_path / "state" / "state.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RunStateError, match="remove it"):
        train(config)


def test_a_state_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    from structxlip.gather import Ranks

    config = tiny_config(tmp_path, optimiser__epochs=1)
    train(config)
    run = prepare(config)
    with pytest.raises(RunStateError, match="had 1 processes, this one has 2"):
        load_state(tmp_path, run.learner, Ranks(0, 2))


def test_training_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"optimiser__epochs": 30, "optimiser__lr": 1e-12, "evaluation__patience": 2}
    result = train(tiny_config(tmp_path, optimiser__ema_decay=0.0, **changes))
    assert result.is_finished
    assert result.course.epoch < 30


def test_the_structural_weights_fall_as_published(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, loss={"structure": 0.25, "consistency": 0.001, "local": 0.001})
    schedule = weight_schedule(config.loss)
    assert schedule.at(0.1).structure == 0.25
    end = schedule.at(0.8)
    assert (end.structure, end.consistency, end.local) == pytest.approx((0.175, 0.0005, 0.0004))
    assert end.contrastive == 1


def test_bad_records_stop_the_run_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "data" / "a.txt").write_text("a caption")
    with pytest.raises(DataError, match=r"data\.train: 0 usable records, 1 faulty \(1 unreadable\)"):
        train(tiny_config(tmp_path / "run", data__train={"kind": "folder", "path": str(tmp_path / "data")}))
    assert not (tmp_path / "run" / "steps.csv").exists()


def test_words_that_no_caption_uses_stay_at_zero(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model__zero_unseen_words=True, optimiser__epochs=1)
    train(config)
    encoder = load_encoder(str(tmp_path / "last"), device="cpu")
    table: Tensor = encoder.model.token_embedding.weight  # type: ignore[union-attr, assignment]
    used = encoder.tokenizer.encode("a house").ids.tolist()
    assert all(table[token].any() for token in used)
    unused = encoder.tokenizer.encode("bureaucracy").ids[1:-1].tolist()
    assert not table[unused].any()
    assert float((table == 0).all(dim=1).float().mean()) > 0.9


@pytest.mark.parametrize("is_clips", [True, False])
def test_a_tokenizer_that_takes_spaces_along_sees_whole_captions(
    tmp_path: Path, is_clips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = prepare(tiny_config(tmp_path)).learner.encoder
    monkeypatch.setitem(encoder.architecture["text_cfg"], "hf_tokenizer_name", None if is_clips else "roberta-base")
    asked: list[str] = []
    encode = encoder.tokenizer.encode
    monkeypatch.setattr(encoder.tokenizer, "encode", lambda text: asked.append(text) or encode(text))
    source = open_source(parse_source("scenes:train,num_scenes=3"), image_size=64)
    zero_unseen_words(encoder, source)
    captions = [caption for index in range(3) for caption in source.captions(index)]
    assert sorted(asked) == sorted({word for caption in captions for word in caption.split()} if is_clips else captions)


def test_a_model_of_77_positions_is_stretched_and_starts_from_its_weights(tmp_path: Path) -> None:
    from tests.support.tiny_open_clip import write_tiny_open_clip

    base = write_tiny_open_clip(tmp_path / "base")
    tree = tiny_tree(tmp_path / "run", optimiser__epochs=1)
    tree["model"] = {"start": f"local-dir:{base}", "context_length": 248, "edge_branch": {"kind": "cnn", "width": 8}}
    from training.config import parse_config

    run = prepare(parse_config(tree))
    table: Tensor = run.learner.encoder.model.positional_embedding  # type: ignore[assignment]
    original: Tensor = load_encoder(f"local-dir:{base}", device="cpu").model.positional_embedding  # type: ignore[assignment]
    assert table.shape[0] == 248
    assert torch.equal(table[:20], original[:20])
    assert torch.equal(table[24], original[21])
    assert run.maker.tokenizer.context_length == 248
    train(parse_config(tree))
    assert load_encoder(str(tmp_path / "run" / "best"), device="cpu").context_length == 248


@pytest.mark.parametrize(("statistics", "is_warned"), [("learn", True), ("keep", False)])
def test_a_run_says_when_it_would_move_the_statistics_of_a_pretrained_tower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statistics: str, is_warned: bool
) -> None:
    architecture = tiny_architecture()
    architecture["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    write_tiny_open_clip(tmp_path / "pretrained", architecture=architecture)
    train(
        tiny_config(
            tmp_path / "run",
            model={"start": f"local-dir:{tmp_path / 'pretrained'}", "context_length": 120},
            freezing={"running_statistics": statistics},
            loss={"structure": 0.5, "consistency": 0.05, "local": 0},
            optimiser={"epochs": 1},
        )
    )
    assert ("freezing.running_statistics: learn moves" in capsys.readouterr().err) == is_warned


@pytest.mark.parametrize(("structure", "consistency"), [(0.5, 0.0), (0.0, 0.0), (0.0, 0.1)])
def test_a_run_that_reads_structural_text_says_how_much_of_its_captions_is_appearance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], structure: float, consistency: float
) -> None:
    losses = {"structure": structure, "consistency": consistency, "local": 0.0}
    train(tiny_config(tmp_path / "run", loss=losses, optimiser={"epochs": 1}))
    assert ("% of them appearance" in capsys.readouterr().err) == (structure > 0)
