"""The `openvino` backend: the encoder's modules, traced, converted in memory, and run on the CPU.

A converted tower takes the bytes of pictures (or token ids) and gives unit rows: scaling and normalisation are part of
it. Batch and text length stay free. OpenVINO is an extra (`structxlip[cpu]`) and imported only here, on use.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structxlip.backends.towers import BackendName, Precision, Rows
from structxlip.errors import ModelUnavailableError
from structxlip.mapped_file import MappedFile
from structxlip.priority import made_giving_way

if TYPE_CHECKING:
    import openvino

    from structxlip.encoder import TwoViewEncoder

# What one more call costs, in tokens: between 7 (bf16) and 29 (f32) by the times of 1 and of 8 texts of 12 tokens
# (4-layer text tower, two busy cores, 2026-11-24).
SPARE_TOKENS = 16
_MAKING_CORE = threading.Lock()


@dataclass(frozen=True)
class ConvertedTower:
    """A tower as an OpenVINO model.

    Attributes:
        model: Takes one array, gives unit rows.
        file: In which its weights lie, to be kept as long as the model is; `None` where they are in memory.
    """

    model: openvino.Model
    file: MappedFile | None = None


def is_installed() -> bool:
    """Whether OpenVINO can be imported here."""
    try:
        _runtime()
    except ImportError:
        return False
    return True


def version() -> str:
    """Return the installed release, such as ``2026.4.1``."""
    return str(_runtime().__version__).partition("-")[0]


def supports_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices itself."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convert(encoder: TwoViewEncoder) -> dict[str, openvino.Model]:
    """Return the encoder's towers, `images`, `tokens` and (for `cnn`) `edges`, as OpenVINO models in float32.

    They share the memory of the encoder's weights.

    Raises:
        Exception: Whatever torch or OpenVINO raises on a module that they cannot take.
    """
    side, length = encoder.image_size, encoder.context_length
    is_cuttable = encoder.text_tower.is_cuttable
    towers: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module, Tensor, list[int]]] = {
        "images": (
            encoder.embed_rgb,
            encoder.model,
            torch.zeros((2, side, side, 3), dtype=torch.uint8),
            [-1, side, side, 3],
        ),
        "tokens": (
            encoder.embed_tokens,
            encoder.model,
            encoder.tokenize(["a", "a table left of a chair"]),
            [-1, -1 if is_cuttable else length],
        ),
    }
    if encoder.edge_branch is not None:
        example = torch.zeros((2, side, side), dtype=torch.uint8)
        towers["edges"] = (encoder.embed_edges, encoder.edge_branch, example, [-1, side, side])
    return {name: _convert(*parts) for name, parts in towers.items()}


def read(path: Path) -> ConvertedTower:
    """Read a model that `write` wrote; its weights stay in their file.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the weights are empty.
        RuntimeError: If it is no model.
    """
    file = MappedFile(path.with_suffix(".bin"))
    weights = _runtime().Tensor(file.content, shared_memory=True)
    return ConvertedTower(_core().read_model(path.read_bytes(), weights), file)


def write(model: openvino.Model, path: Path) -> None:
    """Write a model as `path` (XML) and its weights, in float32, beside it (`.bin`)."""
    _runtime().save_model(model, path, compress_to_fp16=False)


class OpenVinoTower:
    """A compiled model; each call takes a free inference request of its own, so that threads never meet in one.

    Args:
        model: Takes one array, gives unit rows.
        precision: Of matrix products; bf16 only where `supports_bf16`.
        threads: Cores that one call may use; all of them unless given.
        streams: Parts of these cores, each of which takes a call of one item; larger calls are divided among them.
        file: In which the model's weights lie.
        gives_way: Let the system prefer other work to that of this tower.
    """

    backend: BackendName = "openvino"

    def __init__(
        self,
        model: openvino.Model,
        *,
        precision: Precision,
        threads: int | None = None,
        streams: int = 1,
        file: MappedFile | None = None,
        gives_way: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",  # one batch takes all cores; the queue before it makes the batches
            # Said in full: where the processor has bf16, OpenVINO would take it unasked.
            "INFERENCE_PRECISION_HINT": precision,
            # Other threads decode the next pictures meanwhile: the system places all of them best.
            "ENABLE_CPU_PINNING": False,
        }
        if streams > 1:
            options["NUM_STREAMS"] = streams
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self.precision = precision
        self._streams = streams
        compile_model = partial(_core().compile_model, model, "CPU", options)
        # Compiling starts the threads that will run it.
        self._compiled = made_giving_way(compile_model) if gives_way else compile_model()
        self._file = file
        self.let_go_of_originals()
        self._free: list[openvino.InferRequest] = []
        self._lock = threading.Lock()

    def __call__(self, items: NDArray[Any]) -> Rows:
        """Embed a batch."""
        parts = np.array_split(np.ascontiguousarray(items), min(self._streams, max(1, len(items))))
        requests = self._take(len(parts))  # one that fails is not used again
        for request, part in zip(requests[1:], parts[1:], strict=True):
            request.start_async([part], share_inputs=True)
        rows: list[Rows] = [requests[0].infer([parts[0]], share_inputs=True)[0]]
        for request in requests[1:]:
            request.wait()
            rows.append(request.get_output_tensor(0).data.copy())
        with self._lock:
            self._free.extend(requests)
        return np.concatenate(rows) if len(rows) > 1 else rows[0]

    def _take(self, num: int) -> list[openvino.InferRequest]:
        with self._lock:
            free, self._free = self._free[:num], self._free[num:]
        return free + [self._compiled.create_infer_request() for _ in range(num - len(free))]

    def let_go_of_originals(self) -> None:
        """Give back the memory of weights that lie in a file, as far as it is not used all the time.

        Most of them are packed anew by compiling, and by the first call of each kind, and not read again after that.
        """
        if self._file is not None:
            self._file.let_go()


class _Traceable(nn.Module):
    """A function of an encoder as a module, with the parts that hold its weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], part: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.part = part

    def forward(self, items: Tensor) -> Tensor:
        return self.function(items)


def _convert(
    function: Callable[[Tensor], Tensor], part: nn.Module, example: Tensor, shape: list[int]
) -> openvino.Model:
    runtime = _runtime()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    _silence_tracing()
    with torch.no_grad():
        decoder = TorchScriptPythonDecoder(
            _Traceable(function, part).eval(), example_input=example, trace_kwargs={"check_trace": False}
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        assert frontend is not None, "every OpenVINO wheel has its frontend for torch"
        model = frontend.convert(frontend.load(decoder))
    model.reshape({0: runtime.PartialShape(shape)})
    _share_slices(model, part)
    return model


def _share_slices(model: openvino.Model, part: nn.Module) -> None:
    """Let slices of a weight lie in the memory of the weight; OpenVINO would copy them, and keep both.

    In torch's attention queries, keys and values are three slices of one matrix: a quarter of a transformer's weights.
    """
    from openvino.op import Constant

    weights = {weight.data_ptr(): weight.detach() for weight in part.parameters() if weight.is_contiguous()}
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Slice" or op.input_value(0).get_node().get_type_name() != "Constant":
            continue
        weight = weights.get(op.input_value(0).get_node().data.ctypes.data)
        bounds = [_known_value(value) for value in op.input_values()[1:]]
        known = [int(bound.item()) for bound in bounds if bound is not None and bound.size == 1]
        if weight is None or not len(known) == len(bounds) == 4:
            continue
        begin, end, step, axis = known
        if (step, axis) == (1, 0):
            op.output(0).replace(Constant(weight[begin:end].numpy(), shared_memory=True).output(0))


def _known_value(output: openvino.Output) -> NDArray[Any] | None:
    """Return what a small part of a model gives whatever the model is given; `None` if that depends."""
    runtime, node = _runtime(), output.get_node()
    if node.get_type_name() == "Constant":
        return np.asarray(node.data)
    inputs = [_known_value(value) for value in node.input_values()]
    if not inputs or any(value is None for value in inputs):
        return None
    result = runtime.Tensor(output.element_type, output.shape)
    is_known = node.evaluate([result], [runtime.Tensor(np.array(value)) for value in inputs])
    return np.asarray(result.data) if is_known else None


def _silence_tracing() -> None:
    """Keep what torch says about tracing from whoever watches this process's warnings.

    It calls its tracing deprecated, and tells of each shape that it reads as a number; the result is checked against
    the modules before it is used, at other sizes than it was traced with. The filters stay once they are there:
    `warnings.catch_warnings` is not for threads, and a service converts while it answers.
    """
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.trace", category=FutureWarning)
    for told in ("in the trace", "might cause the trace to be incorrect"):
        warnings.filterwarnings("ignore", message=f".*{told}")


def _runtime() -> Any:
    """Import OpenVINO without its telemetry.

    `import openvino` sends an event to its maker's analytics, and writes an id into the user's home, unless the package
    `openvino_telemetry` is missing: then it has a stand-in of its own.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _core() -> openvino.Core:
    """Return the one core of this process, which lives as long as the process does.

    Each core lays a stack for signal handlers under the thread that first uses it (for the registers of AMX,
    openvinotoolkit/openvino#11894) and takes it away with its last model. Where there are several, and the first to be
    made is the first to go, the thread is left with a stack that is gone: the next SIGTERM, SIGINT or end of a child
    process kills the process with SIGSEGV.
    """
    with _MAKING_CORE:
        return _made_core()


@cache
def _made_core() -> openvino.Core:
    return _runtime().Core()


def require() -> None:
    """Check that OpenVINO is there.

    Raises:
        ModelUnavailableError: If it is not.
    """
    if not is_installed():
        raise ModelUnavailableError(
            "the backend openvino needs the package of that name: pip install 'structxlip[cpu]', or take the "
            "backend torch"
        )
