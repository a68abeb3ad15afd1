"""A treebank of three sentences: a contraction, a plain sentence, and an empty node."""

from __future__ import annotations

_ROWS = """# newpar id = 1
1-2 Don't _ _ _ _ _ _ _ _
1 Do do AUX VB _ 3 aux _ _
2 n't not PART RB _ 3 advmod _ _
3 run run VERB VB _ 0 root _ SpaceAfter=No
4 . . PUNCT . _ 3 punct _ _

1 A a DET DT _ 2 det _ _
2 dog dog NOUN NN _ 3 nsubj _ _
3 sits sit VERB VBZ _ 0 root _ SpaceAfter=No
4 . . PUNCT . _ 3 punct _ _

# newpar id = 2
1 Cats cat NOUN NNS _ 0 root _ _
1.1 sit sit VERB VBP _ _ _ _ _
2 too too ADV RB _ 1 advmod _ _
"""
CONLLU = "\n".join(line if line.startswith("#") else line.replace(" ", "\t") for line in _ROWS.split("\n"))
