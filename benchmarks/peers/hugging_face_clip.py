"""The reference model (`benchmarks.reference_model`) in the file format of Hugging Face's `CLIPModel`, weights equal."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.reference_model import ARCHITECTURE, PREPROCESSING

# The merges that CLIP's tokenizer knows: the file holds more.
NUM_MERGES = 49152 - 256 - 2
END = 49407
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def write_hugging_face_clip(open_clip_folder: Path, folder: Path) -> None:
    """Write model, tokenizer and preprocessing of the reference model in ``open_clip_folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(open_clip_folder / "open_clip_model.safetensors")
    save_file(convert(state), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(), indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessing(), indent=2))
    _write_tokenizer(folder)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip's tensors; linear projections change sides, and q, k and v get a tensor each."""
    vision, text = "vision_model.", "text_model."
    found = {
        "logit_scale": state["logit_scale"],
        f"{vision}embeddings.class_embedding": state["visual.class_embedding"],
        f"{vision}embeddings.position_embedding.weight": state["visual.positional_embedding"],
        f"{vision}embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "visual_projection.weight": state["visual.proj"].T,
        f"{text}embeddings.token_embedding.weight": state["token_embedding.weight"],
        f"{text}embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
    }
    for kind in ("weight", "bias"):
        found[f"{vision}pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        found[f"{vision}post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        found[f"{text}final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    for theirs, ours in ((vision, "visual.transformer.resblocks."), (text, "transformer.resblocks.")):
        for name, tensor in state.items():
            if name.startswith(ours):
                layer, _, rest = name.removeprefix(ours).partition(".")
                found |= _of_layer(f"{theirs}encoder.layers.{layer}.", rest, tensor)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _of_layer(prefix: str, rest: str, tensor: Tensor) -> dict[str, Tensor]:
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return {
            f"{prefix}self_attn.{part}_proj.{kind}": chunk
            for part, chunk in zip("qkv", torch.chunk(tensor, 3), strict=True)
        }
    part, _, kind = rest.rpartition(".")
    return {f"{prefix}{_LAYER[part]}.{kind}": tensor}


def _config() -> dict[str, Any]:
    vision, text = ARCHITECTURE["vision_cfg"], ARCHITECTURE["text_cfg"]
    assert isinstance(vision, dict)
    assert isinstance(text, dict)
    width = ARCHITECTURE["embed_dim"]
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": width,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "hidden_act": "gelu",
            "projection_dim": width,
            "bos_token_id": END - 1,
            "eos_token_id": END,
            "pad_token_id": END,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": "gelu",
            "projection_dim": width,
        },
    }


def _preprocessing() -> dict[str, Any]:
    vision = ARCHITECTURE["vision_cfg"]
    assert isinstance(vision, dict)
    side = vision["image_size"]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": PREPROCESSING["mean"],
        "image_std": PREPROCESSING["std"],
    }


def _write_tokenizer(folder: Path) -> None:
    packed = files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode().split("\n")[1 : 1 + NUM_MERGES]
    signs = _byte_signs()
    words = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "processor_class": "CLIPProcessor",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 77,
            }
        )
    )


def _byte_signs() -> list[str]:
    """Return the sign that stands for each byte, in the tokenizer's order: printable ones first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
