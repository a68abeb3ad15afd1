"""Captions to try the filters on: real words in any order, and any text at all."""

from __future__ import annotations

from hypothesis import strategies as st

_APPEARANCE = """
red white black light dark brown orange gold silver cream olive rose glass metal wooden stone brick shiny
bright sunny grey-brown light-blue white-walled dark-haired blue-green off-white cream-colored colored color
shade shades paper iron sky deep very mostly painted made
"""
APPEARANCE = _APPEARANCE.split()
_STRUCTURE = """
dog man shirt striped small round table house juice tree down walks standing is are appears to be in of on
with and or , . ; ( ) " a an the its which that it two 3 - / ' 's building medal light lamp Red Sea White
square wine running parked there has
"""
STRUCTURE = _STRUCTURE.split()


def captions(max_words: int = 30) -> st.SearchStrategy[str]:
    """Words and signs in any order, with spaces between most of them."""
    words = st.sampled_from(APPEARANCE + STRUCTURE)
    return st.lists(st.tuples(words, st.sampled_from((" ", " ", " ", "", "\n"))), max_size=max_words).map(
        lambda parts: "".join(word + space for word, space in parts)
    )


def any_text() -> st.SearchStrategy[str]:
    """Captions of known words, and arbitrary Unicode."""
    return st.one_of(captions(), st.text(max_size=80))
