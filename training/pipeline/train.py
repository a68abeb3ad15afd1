"""Trains the small English pipeline: ``python -m training.pipeline.train TREEBANK_FOLDER OUTPUT``.

Reads a Universal Dependencies treebank, runs spaCy's own training loop on `config.cfg`, measures the test part, and
writes a pipeline folder without the parts that its use does not need. The same treebank and seed give the same
weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train as run_training
from spacy.util import load_config
from spacy.vocab import Vocab

from training.pipeline.scores import Scores, score_on_gold_tokens, score_on_raw_text
from training.pipeline.treebank import digest, group_paragraphs, read_sentences, split_path, to_doc

CONFIG = Path(__file__).with_name("config.cfg")
SENTENCES_PER_DOC = 8

LICENCE = "CC BY-SA 4.0"
SOURCE = "Universal Dependencies English Web Treebank (UD_English-EWT)"
NOTICE = f"""This folder is a spaCy pipeline (tagger and dependency parser for English), trained on the {SOURCE}
by Natalia Silveira, Timothy Dozat, Marie-Catherine de Marneffe, Samuel Bowman, Miriam Connor, John Bauer, Christopher
D. Manning and the Universal Dependencies contributors: https://github.com/UniversalDependencies/UD_English-EWT

The treebank is licensed under the Creative Commons Attribution-ShareAlike 4.0 International licence
(https://creativecommons.org/licenses/by-sa/4.0/). These weights are shared alike, under the same licence, {LICENCE}.
The treebank was converted to spaCy's format and a model was fitted to it; `meta.json` names the digest of the data
and the scores. The licence of the code around this folder is another one: see LICENSE at the root of the project.
"""


def write_corpus(source: Path, target: Path) -> None:
    """Convert one CoNLL-U file into spaCy's binary corpus."""
    vocab = Vocab()
    groups = group_paragraphs(read_sentences(source), SENTENCES_PER_DOC)
    DocBin(docs=[to_doc(vocab, group) for group in groups]).to_disk(target)


def train_pipeline(treebank: Path, overrides: dict[str, object]) -> Language:
    """Run spaCy's training loop and return the best pipeline by the development score."""
    with tempfile.TemporaryDirectory() as scratch:
        corpora = {split: Path(scratch) / f"{split}.spacy" for split in ("train", "dev")}
        for split, path in corpora.items():
            write_corpus(split_path(treebank, split), path)
        paths = {f"paths.{split}": str(path) for split, path in corpora.items()}
        config = load_config(CONFIG, overrides={**paths, **overrides}, interpolate=False)
        nlp = init_nlp(config)
        run = Path(scratch) / "run"
        run.mkdir()
        run_training(nlp, run, stdout=sys.stdout, stderr=sys.stderr)
        return spacy.load(run / "model-best")


def write_pipeline(nlp: Language, target: Path, treebank: Path, scores: dict[str, Scores]) -> None:
    """Write the pipeline folder with its notice, and of its vocabulary the labels only."""
    nlp.meta.update(
        name="structxlip_ewt",
        version="1.0.0",
        description="Small English tagger and parser for captions: shared hash-embedding CNN, no word vectors.",
        license=LICENCE,
        spacy_version=">=3.8.0,<4.0.0",
        sources=[{"name": SOURCE, "license": LICENCE}],
        data_sha256=digest(treebank),
        performance={name: score.as_dict() for name, score in scores.items()},
    )
    nlp.config["paths"].update(train=None, dev=None)
    nlp.to_disk(target, exclude=["vocab"])
    Vocab(strings=_labels(nlp)).to_disk(target / "vocab")
    (target / "NOTICE").write_text(NOTICE, encoding="utf-8")


def _labels(nlp: Language) -> list[str]:
    """The labels of all parts; the words of the training texts are not needed to tag and parse."""
    return sorted({label for labels in nlp.pipe_labels.values() for label in labels})


def main() -> None:
    """Read the command line, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("treebank", type=Path, help="folder with *-train.conllu, *-dev.conllu and *-test.conllu")
    parser.add_argument("output", type=Path, help="folder to write the pipeline to")
    parser.add_argument("--max-steps", type=int, default=None, help="stop earlier than config.cfg says")
    arguments = parser.parse_args()
    overrides = {} if arguments.max_steps is None else {"training.max_steps": arguments.max_steps}
    nlp = train_pipeline(arguments.treebank, overrides)
    test = list(read_sentences(split_path(arguments.treebank, "test")))
    scores = {"gold_tokens": score_on_gold_tokens(nlp, test), "raw_text": score_on_raw_text(nlp, test)}
    write_pipeline(nlp, arguments.output, arguments.treebank, scores)
    print(json.dumps({name: score.as_dict() for name, score in scores.items()}, indent=2))


if __name__ == "__main__":
    main()
