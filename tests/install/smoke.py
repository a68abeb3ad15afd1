"""What an installed package must do, whatever extra it came with: `python smoke.py [EXTRA]`, outside the checkout.

Uses the installed `structxlip` command only: adds the packaged sample pictures to a local collection with a tiny
random model, searches them, serves them, and searches again over HTTP.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import packages_distributions
from pathlib import Path

OURS = ("structxlip", "training", "index", "service")
START_SECONDS = 120


def main(extra: str) -> None:
    """Run every step; any failure is an exception."""
    check_names()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder / "model")
        engine = add_and_search(model, folder / "data")
        has_faiss = importlib.util.find_spec("faiss") is not None
        assert engine == ("flat" if has_faiss else "numpy"), engine
        assert has_faiss == (extra in {"cpu", "gpu", "dev"}), extra
        serve_and_search(model, folder / "data")
    if extra == "train":
        assert "config" in structxlip("train", "--help").lower()
    if extra == "dev":
        for tool in ("ruff", "mypy", "pytest", "lint-imports"):
            run(str(Path(sys.executable).parent / tool), "--help")
    print(f"smoke test passed: extra {extra or 'none'}, engine {engine}")


def check_names() -> None:
    """Nobody else installs a package under one of our names."""
    for name in OURS:
        assert set(packages_distributions()[name]) == {"structxlip"}, (name, packages_distributions()[name])


def write_model(folder: Path) -> str:
    """Write an open_clip model with random weights."""
    from safetensors.torch import save_file

    from structxlip.architecture import build_model

    architecture = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": architecture, "preprocess_cfg": preprocessing})
    )
    weights = {name: tensor.contiguous() for name, tensor in build_model(architecture).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def add_and_search(model: str, data: Path) -> str:
    """Add the packaged samples, search them, and return the engine's name."""
    import service

    samples = Path(service.__file__).parent / "samples"
    target = ("--data", str(data), "--model", model)
    structxlip("add", str(samples / "manifest.jsonl"), *target)
    hits = json.loads(structxlip("search", "a striped boat", "--json", "--limit", "5", *target))
    assert len(hits) == 5
    engine: str = json.loads(structxlip("info", "--json", *target))["collection"]["engine"]
    return engine


def serve_and_search(model: str, data: Path) -> None:
    """Start the service on the same collection and search over HTTP."""
    import socket

    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [command(), "serve", "--model", model, "--data", str(data), "--port", port], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        assert len(json.loads(structxlip("search", "a boat", "--json", "--limit", "3", "--url", url))) == 3
        for path in ("/", "/web/app.js", "/web/styles/base.css"):
            assert httpx.get(url + path).status_code == 200, path
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0


def structxlip(*arguments: str) -> str:
    """Run the installed command and return what it prints."""
    return run(command(), *arguments)


def command() -> str:
    """Return the path of the installed command."""
    return str(Path(sys.executable).parent / "structxlip")


def run(*arguments: str) -> str:
    """Run a program; its messages are shown when it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
