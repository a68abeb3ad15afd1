"""Captions: their structural text, without appearance words, and their chunks.

`LexiconFilter` needs no model and is the default. `SyntacticFilter` and the parsing `Chunker` use a spaCy pipeline,
which is loaded when one of them is built: importing this package does not import spaCy.
"""

from structxlip.captions.chunks import (
    Chunk,
    Chunker,
    SyntacticChunker,
    WindowChunker,
    build_chunker,
    sample_evenly,
)
from structxlip.captions.filters import CaptionFilter, NoFilter, build_caption_filter
from structxlip.captions.lexicon import LexiconFilter
from structxlip.captions.pipeline import BUNDLED, PipelineError
from structxlip.captions.reduction import Reduction, WeightedSpan, weights
from structxlip.captions.syntactic import SyntacticFilter

__all__ = [
    "BUNDLED",
    "CaptionFilter",
    "Chunk",
    "Chunker",
    "LexiconFilter",
    "NoFilter",
    "PipelineError",
    "Reduction",
    "SyntacticChunker",
    "SyntacticFilter",
    "WeightedSpan",
    "WindowChunker",
    "build_caption_filter",
    "build_chunker",
    "sample_evenly",
    "weights",
]
