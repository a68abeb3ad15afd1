"""From what was asked for to towers that passed the check.

Each tower is chosen by itself, the fastest first: what was asked for, then the same backend in float32, then torch. A
tower that cannot be made, or is too far from the reference, is passed over with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from structxlip.backends import openvino_cpu, stored
from structxlip.backends.agreement import MIN_COSINE, Probes, batches_of, make_probes, smallest_cosine_to
from structxlip.backends.eager import torch_towers
from structxlip.backends.towers import BackendName, EdgesAsPictures, Precision, Rows, Tower, Towers
from structxlip.cores import num_cores
from structxlip.errors import ConfigError

if TYPE_CHECKING:
    from structxlip.encoder import TwoViewEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a model shall run.

    Args:
        backend: `openvino` (CPU only), `torch`, or `auto`: OpenVINO on a CPU where it is installed.
        precision: Of matrix products.
        threads: Cores that one batch may use on a CPU; all of them unless given.
    """

    backend: Literal["auto", "torch", "openvino"] = "torch"
    precision: Precision = "f32"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")


def check_execution(execution: Execution, *, device: str) -> BackendName:
    """Check what can be known without the model, and return the backend that is to run it.

    Raises:
        ConfigError: If OpenVINO is asked for on another device than the CPU.
        ModelUnavailableError: If OpenVINO is asked for and not installed.
    """
    return _resolve(execution.backend, device)


def towers_in_turn(encoder: TwoViewEncoder, execution: Execution, *, folder: Path | None = None) -> Iterator[Towers]:
    """Yield towers as they are checked: the last have all that was asked for, those before still some of torch.

    Whoever uses each at once needs the weights of the modules that it replaces no longer.

    Args:
        encoder: The loaded model.
        execution: What is asked for.
        folder: Of the model, where `structxlip export` may have left a converted form.

    Raises:
        ConfigError: If OpenVINO is asked for on another device than the CPU.
        ModelUnavailableError: If OpenVINO is asked for and not installed.
    """
    backend = _resolve(execution.backend, encoder.device)
    if execution.threads is not None and encoder.device == "cpu":
        torch.set_num_threads(execution.threads)
    reference = torch_towers(encoder)
    if (backend, execution.precision) == ("torch", "f32"):
        yield reference
        return
    probes = make_probes(encoder)
    if backend == "torch":
        yield _checked(torch_towers(encoder, precision=execution.precision), reference, probes)
        return
    yield from _openvino_towers(encoder, execution, folder, reference, probes)


def _resolve(backend: str, device: str) -> BackendName:
    if backend == "auto":
        return "openvino" if device == "cpu" and openvino_cpu.is_installed() else "torch"
    if backend == "torch":
        return "torch"
    if device != "cpu":
        raise ConfigError(f"the backend openvino runs on the CPU, the device is {device!r}: set the device to cpu")
    openvino_cpu.require()
    return "openvino"


def _checked(towers: Towers, reference: Towers, probes: Probes) -> Towers:
    def choose(name: str, tower: Tower, expected: Tower) -> Tower:
        return tower if _is_near_enough(name, tower, _rows_of(expected, probes, name), probes) else expected

    return Towers(
        images=choose("images", towers.images, reference.images),
        edges=choose("edges", towers.edges, reference.edges),
        tokens=choose("tokens", towers.tokens, reference.tokens),
        spare_tokens=towers.spare_tokens,
    )


def _openvino_towers(
    encoder: TwoViewEncoder, execution: Execution, folder: Path | None, reference: Towers, probes: Probes
) -> Iterator[Towers]:
    converted = _converted(encoder, folder)
    precisions = _precisions(execution.precision)
    # Before anything is compiled, so that the weights of a tower are not in memory twice for the sake of the check.
    expected = {name: _rows_of(tower, probes, name) for name, tower in reference if name in converted}
    encoder.let_go_of_weights()

    def choose(name: str, otherwise: Tower) -> Tower:
        for precision in precisions if name in converted else ():
            try:
                tower = openvino_cpu.OpenVinoTower(
                    converted[name].model,
                    precision=precision,
                    threads=execution.threads,
                    # Words that somebody searches by come one at a time as a rule: one part of the cores has hardly
                    # less to do for them than all, and needs no others to be free, which beside pictures they are not.
                    streams=min(2, execution.threads or num_cores()) if name == "tokens" else 1,
                    file=converted[name].file,
                    # A batch of pictures has all cores for long; the words that somebody searches by need them shortly.
                    gives_way=name != "tokens",
                )
                is_near_enough = _is_near_enough(name, tower, expected[name], probes)
                tower.let_go_of_originals()
                if is_near_enough:
                    return tower
            except Exception as error:  # noqa: BLE001  # OpenVINO raises nearly anything on what it cannot run
                logger.warning("openvino %s cannot run the %s: %s", precision, name, _first_line(error))
        return otherwise

    images = choose("images", reference.images)
    edges = EdgesAsPictures(images) if encoder.edge_branch is None else choose("edges", reference.edges)
    yield replace(reference, images=images, edges=edges)
    tokens = choose("tokens", reference.tokens)
    spare = openvino_cpu.SPARE_TOKENS if tokens.backend == "openvino" else reference.spare_tokens
    yield Towers(images=images, edges=edges, tokens=tokens, spare_tokens=spare)


def _converted(encoder: TwoViewEncoder, folder: Path | None) -> Mapping[str, openvino_cpu.ConvertedTower]:
    """Return the converted towers, from beside the checkpoint or made now; none when they cannot be made."""
    if folder is not None and (found := stored.read_form(folder, encoder.fingerprint)) is not None:
        return found
    try:
        models = openvino_cpu.convert(encoder)
    except Exception as error:  # noqa: BLE001  # torch and OpenVINO raise nearly anything on what they do not know
        logger.warning("openvino cannot take this model, torch runs it: %s", _first_line(error))
        return {}
    return {name: openvino_cpu.ConvertedTower(model, encoder.weights_file) for name, model in models.items()}


def _precisions(wanted: Precision) -> Sequence[Precision]:
    """Return what to try in turn."""
    if wanted == "bf16" and not openvino_cpu.supports_bf16():
        logger.warning("this processor has no bf16 matrix products; f32 is used")
        return ("f32",)
    return ("bf16", "f32") if wanted == "bf16" else ("f32",)


def _rows_of(reference: Tower, probes: Probes, name: str) -> list[Rows]:
    return [reference(items) for items in batches_of(probes, name)]


def _is_near_enough(name: str, tower: Tower, expected: Sequence[Rows], probes: Probes) -> bool:
    label, needed = f"{tower.backend} {tower.precision}", MIN_COSINE[tower.precision]
    cosine = smallest_cosine_to(expected, tower, batches_of(probes, name))
    if cosine >= needed:
        logger.info("%s runs the %s: cosine to float32 %.6f", label, name, cosine)
        return True
    logger.warning(
        "%s is not used for the %s: cosine to float32 %.6f, at least %s is needed", label, name, cosine, needed
    )
    return False


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
