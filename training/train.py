"""Train from the command line, alone or under torchrun.

python -m training.train training/configs/scenes_tiny.yaml optimiser.lr=1e-3 seed=1
torchrun --nproc-per-node 4 -m training.train training/configs/docci_vit_b16.yaml
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from training.allocation import keep_freed_memory
    from training.commands import run_training

    keep_freed_memory()
    sys.exit(run_training(sys.argv[1:]))
