"""Install peers, each in an environment of its own under `.peers/`, which git ignores.

    python -m benchmarks.peers.install infinity clip-retrieval
"""

from __future__ import annotations

import argparse
import subprocess
import venv
from pathlib import Path

PEERS = Path(__file__).parents[2] / ".peers"
# The versions that are measured, and what each of them needs and does not ask for.
PACKAGES = {
    "infinity": ("infinity-emb[all]==0.0.78", "aiohttp"),
    "clip-retrieval": ("clip-retrieval==2.45.0", "setuptools<81"),
}


def main() -> None:
    """Install what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="+", choices=sorted(PACKAGES))
    for peer in parser.parse_args().peers:
        install(peer)


def install(peer: str) -> None:
    """Make the environment anew and install into it; several GB for each."""
    venv.create(PEERS / peer, with_pip=True, clear=True)
    subprocess.run([python_of(peer), "-m", "pip", "install", "--quiet", *PACKAGES[peer]], check=True)


def python_of(peer: str) -> str:
    """Return the interpreter of a peer's environment."""
    return str(PEERS / peer / "bin" / "python")


def version_of(peer: str, package: str) -> str:
    """Return the version of a package in a peer's environment."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    run = subprocess.run([python_of(peer), "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.strip()


if __name__ == "__main__":
    main()
