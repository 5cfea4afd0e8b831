"""Text is composed as the standard says, however many marks stand on one letter."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from audiocatalog.models.normalization import _MANY_MARKS, _MAY_BE_MARKS, _is_mark, composed

MARKS = "\u0301\u0316\u0344\u0f71\u0f73\u05b0\u3099\u0345"


@given(
    st.text(st.sampled_from(f"{MARKS}ae\u00e9\u1161\uac00\u304b "), max_size=200),
    st.text(MARKS, min_size=40, max_size=200),
)
def test_it_is_what_python_makes(text: str, marks: str) -> None:
    for one in (text, marks, f"a{marks}b{text}", f"{text}{marks}"):
        assert composed(one) == unicodedata.normalize("NFC", one)


def test_every_mark_is_looked_for() -> None:
    may_be_marks = re.compile(_MAY_BE_MARKS.removesuffix(f"{{{_MANY_MARKS},}}"))
    marks = [character for character in map(chr, range(0x110000)) if _is_mark(character)]
    assert len(marks) > 900
    assert [mark for mark in marks if not may_be_marks.fullmatch(mark)] == []
