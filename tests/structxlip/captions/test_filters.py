from __future__ import annotations

import subprocess
import sys

import pytest

from structxlip.captions import LexiconFilter, NoFilter, PipelineError, SyntacticFilter, build_caption_filter


@pytest.mark.parametrize(
    ("config", "kind", "expected"),
    [
        ({"kind": "lexicon"}, LexiconFilter, "A dog runs."),
        ({"kind": "syntactic"}, SyntacticFilter, "A dog runs."),
        ({"kind": "syntactic", "pipeline": "bundled"}, SyntacticFilter, "A dog runs."),
        ({"kind": "none"}, NoFilter, "A red dog runs."),
    ],
)
def test_a_config_names_a_filter_which_names_it_back(config: dict[str, str], kind: type[object], expected: str) -> None:
    built = build_caption_filter(dict(config))
    assert isinstance(built, kind)
    assert built.structural_text("A red dog runs.") == expected
    assert build_caption_filter(built.config()).config() == built.config()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "lexicon, syntactic, none, got None"),
        ({"kind": "magic"}, "got 'magic'"),
        ({"kind": "lexicon", "pipeline": "x"}, r"got also \['pipeline'\]"),
        ({"kind": "syntactic", "pipeline": 3}, "must be a name, got 3"),
    ],
)
def test_wrong_configs_are_refused_with_what_was_expected(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_caption_filter(config)  # type: ignore[arg-type]


def test_a_missing_pipeline_is_named_with_a_way_out() -> None:
    with pytest.raises(PipelineError, match=r"'xx_not_there' cannot be loaded .* use the kind 'lexicon'"):
        build_caption_filter({"kind": "syntactic", "pipeline": "xx_not_there"})


def test_importing_the_package_and_filtering_by_lexicon_loads_neither_spacy_nor_torch() -> None:
    code = (
        "import sys\n"
        "from structxlip.captions import build_caption_filter\n"
        "build_caption_filter({'kind': 'lexicon'}).structural_text('a red dog')\n"
        "assert not {'spacy', 'torch'} & set(sys.modules), 'loaded too early'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
