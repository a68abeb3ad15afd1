"""In what numbers the towers are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import Amp

TOLD_WITHOUT_BFLOAT16 = (
    "regime.amp is bf16, and this processor has no arithmetic for it: imitating it would make training many times"
    " slower; training in float32 instead"
)


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device has arithmetic for bfloat16; every GPU that torch supports does."""
    if torch.device(device).type != "cpu":
        return True
    tell = getattr(torch.cpu, "get_capabilities", None)
    if tell is None:  # an older torch, which does not tell
        return True
    capabilities: Mapping[str, object] = tell()
    return any(value for name, value in capabilities.items() if "bf16" in name)


@contextmanager
def mixed_precision(amp: Amp, device: str) -> Iterator[None]:
    """Compute the towers as the configuration says; in float32 where the device has no arithmetic for bfloat16.

    Imitated on one core of an AMD EPYC that has none, a step of 64 photographs with their long captions took 110 and
    215 seconds (plain, all losses) instead of 14 to 20 and 39 (2026-11-30).
    """
    kind = torch.device(device).type
    is_mixed = amp == "bf16" and computes_bfloat16(device)
    with ExitStack() as precision:
        if is_mixed and kind == "cpu":
            # torch's fused attention is slow backwards in bfloat16 on a CPU: more than half of a text tower's step.
            # Matrix products train it 1.5 to 1.7 times faster (one core with AMX, torch 2.14, 2026-11-24).
            precision.enter_context(sdpa_kernel(SDPBackend.MATH))
        precision.enter_context(torch.autocast(kind, dtype=torch.bfloat16, enabled=is_mixed))
        yield
