"""Does "… without X" leave X out? Precision of the first ten hits on rendered scenes, where the truth is known.

    python -m benchmarks.negatives --size 1000

For many pairs of kinds of object, a query asks for one kind and against the other. A hit is right when its scene has
the first and not the second. Compared: the words alone, "… without X" as words, and X as a negative.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass

import numpy as np

from benchmarks.results import write_result
from index.collection import NewImage
from index.exact import ExactCollection
from service.search.finding import Question, find
from service.search.negatives import make_exclusions, with_penalty
from service.search.queries import Term, combine
from structxlip.calibration import MatchCalibration, QueryKind
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.fitting import fit_calibration
from training.calibration.queries import embed_background, embed_queries
from training.config import parse_source
from training.data import open_source
from training.scenes import SceneDataset
from training.scenes.vocabulary import KINDS

DEPTH = 10
MIN_RIGHT = DEPTH


@dataclass(frozen=True)
class _Scenes:
    collection: ExactCollection
    kinds: dict[str, frozenset[str]]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--size", type=int, default=1000, help="scenes in the collection")
    parser.add_argument("--pairs", type=int, default=200, help="queries")
    parser.add_argument("--name", default="negatives")
    arguments = parser.parse_args()
    figures = measure(load_encoder(arguments.model), arguments.size, arguments.pairs)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(encoder: TwoViewEncoder, size: int, num_pairs: int, *, seed: int = 0) -> dict[str, object]:
    """Return precision@10 in percent for each way of asking."""
    scenes = _stored_scenes(encoder, size)
    calibration = encoder.calibration or _fitted(encoder, size)
    pairs = _pairs(scenes, num_pairs, seed)
    weight = encoder.default_structure_weight
    right: dict[str, list[float]] = {}
    shown: dict[str, list[float]] = {}
    for wanted, unwanted in pairs:
        term, away = (_term(encoder, f"a picture with {_with_article(kind)}") for kind in (wanted, unwanted))
        both = _term(encoder, f"a picture with {_with_article(wanted)} without {_with_article(unwanted)}")
        plain, told = (combine([each], structure_weight=None, default_weight=weight) for each in (term, both))
        outs, nearer = (
            make_exclusions([away], plain, structure_weight=None, default_weight=weight, calibration=judge)
            for judge in (calibration, None)
        )
        penalised = with_penalty(plain, [away])
        asked = {
            "words_alone": Question(plain, limit=DEPTH),
            "without_as_words": Question(told, limit=DEPTH),
            "penalty_only": Question(penalised, limit=DEPTH),
            "filter_only": Question(plain, outs, limit=DEPTH),
            "negative": Question(penalised, outs, limit=DEPTH),
            "negative_uncalibrated": Question(penalised, nearer, limit=DEPTH),
        }
        for name, question in asked.items():
            hits = [scenes.kinds[hit.record.id] for hit in find(scenes.collection, None, question).hits]
            right.setdefault(name, []).append(sum(wanted in kinds and unwanted not in kinds for kinds in hits) / DEPTH)
            shown.setdefault(name, []).append(sum(unwanted in kinds for kinds in hits) / DEPTH)
    return {
        "num_scenes": size,
        "num_queries": len(pairs),
        "precision_at_10": {name: round(100 * float(np.mean(values)), 1) for name, values in right.items()},
        "unwanted_in_first_10": {name: round(100 * float(np.mean(values)), 1) for name, values in shown.items()},
    }


def _stored_scenes(encoder: TwoViewEncoder, size: int) -> _Scenes:
    collection = ExactCollection(dimension=encoder.dimension, fingerprint="benchmark")
    kinds = {}
    dataset = SceneDataset("test", size, size=encoder.image_size)
    for first in range(0, size, 64):
        examples = [dataset[index] for index in range(first, min(size, first + 64))]
        seen = encoder.encode_images([encoder.prepare_image(example.rgb) for example in examples])
        images = []
        for place, example in enumerate(examples):
            name = f"scene-{first + place}"
            kinds[name] = frozenset(group["kind"] for group in example.facts["groups"])
            content = name.encode()
            images.append(
                NewImage(
                    id=name,
                    content=content,
                    content_hash=hashlib.sha256(content).hexdigest(),
                    media_type="image/png",
                    width=1,
                    height=1,
                    appearance=seen.appearance[place],
                    structure=seen.structure[place],
                    metadata={},
                )
            )
        collection.add(images)
    return _Scenes(collection, kinds)


def _fitted(encoder: TwoViewEncoder, size: int) -> MatchCalibration:
    train, val = (
        open_source(parse_source(f"scenes:{split},num_scenes={min(size, 300)}"), image_size=encoder.image_size)
        for split in ("train", "val")
    )
    known = embed_background(encoder, train, np.arange(len(train)))
    examples = embed_queries(encoder, val, np.arange(len(val)))
    return fit_calibration(known, examples, default_weight=encoder.default_structure_weight, false_accept_rate=0.05)


def _pairs(scenes: _Scenes, num_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Draw pairs of kinds that some scenes show together, and enough show apart."""
    names = sorted(KINDS)
    found = []
    for wanted in names:
        for unwanted in names:
            together = sum({wanted, unwanted} <= kinds for kinds in scenes.kinds.values())
            apart = sum(wanted in kinds and unwanted not in kinds for kinds in scenes.kinds.values())
            if together and apart >= MIN_RIGHT:
                found.append((wanted, unwanted))
    order = np.random.default_rng(seed).permutation(len(found))[:num_pairs]
    return [found[place] for place in order]


def _with_article(kind: str) -> str:
    name = KINDS[kind].names[0][0]
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _term(encoder: TwoViewEncoder, text: str) -> Term:
    told = encoder.encode_texts([encoder.prepare_text(text)])
    return Term(QueryKind.TEXT, told.appearance[0], told.structure[0])


if __name__ == "__main__":
    main()
