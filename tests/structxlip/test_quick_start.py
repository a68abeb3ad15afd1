"""The quick start leaves torch's compiler out, and in working order."""

from __future__ import annotations

import subprocess
import sys


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)


def test_open_clip_comes_without_the_compiler() -> None:
    run = _run(
        "from structxlip.quick_start import import_without_compiler; import_without_compiler()\n"
        "import open_clip, sys\n"
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]\n"
        "assert 'torchvision' in sys.modules and 'timm' in sys.modules\n"
    )
    assert run.returncode == 0, run.stderr


def test_the_compiler_still_works_for_those_who_compile() -> None:
    run = _run(
        "from structxlip.quick_start import import_without_compiler; import_without_compiler()\n"
        "import open_clip, torch, torchvision\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
        "import torch._dynamo\n"
        "assert torch._dynamo.__file__\n"
        "boxes = torch.tensor([[0.0, 0, 0, 4, 4]])\n"
        "assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)\n"
    )
    assert run.returncode == 0, run.stderr


def test_a_release_that_wants_more_is_imported_in_the_ordinary_way() -> None:
    run = _run(
        "import sys, structxlip.quick_start as quick_start\n"
        "quick_start._leave_alone = None\n"
        "del quick_start._is_compile_supported\n"
        "quick_start._is_compile_supported = None\n"
        "quick_start.import_without_compiler()\n"
        "import open_clip, timm, torchvision\n"
        "assert sys.modules['torch._dynamo'].__file__\n"
    )
    assert run.returncode == 0, run.stderr
