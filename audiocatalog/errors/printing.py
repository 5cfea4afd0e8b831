"""Text that is safe to print: control characters, direction marks and invisible characters are escaped."""

from __future__ import annotations

import json
import re
from typing import Any, Final

#: A regular expression's character class: every character that is escaped wherever text is shown.
#:
#: - control characters, also 8-bit ones: U+009B begins a terminal's command like ESC [, and U+0085 ends a line;
#: - separators of lines and paragraphs, and marks that change the direction of text;
#: - invisible characters, such as U+200B, U+FEFF, Hangul fillers, and tags, which can contain a second text;
#: - lone surrogates, which stand for bytes that are not UTF-8.
_NEVER_SHOWN: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
# Joiners shape Persian and Indic words, and combine emoji. Next to a Latin letter, or next to each other, joiners only
# serve to hide text. Variation selectors that do not follow a Chinese character also only serve to hide text.
_BEFORE_A_JOINER: Final = rf"[^\x00-\u02ff\u200c\u200d{_NEVER_SHOWN}]"
_UNPRINTABLE: Final = (
    rf"[{_NEVER_SHOWN}]"
    rf"|(?<!{_BEFORE_A_JOINER})[\u200c\u200d]"
    rf"|[\u200c\u200d](?!{_BEFORE_A_JOINER})"
    r"|(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]"
)
# The surrogates that Python uses for bytes that are not UTF-8 ("surrogateescape").
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str) -> str:
    r"""
    Return *text* with control, direction and invisible characters escaped.

    Messages, tables and JSON all use this rule.

    >>> escaped("one\ntwo \u202ethree")
    'one\\ntwo \\u202ethree'

    """
    return re.sub(_UNPRINTABLE, _written_out, text)


def json_text(value: Any, *, ascii_only: bool = False) -> str:  # noqa: ANN401  # JSON takes many types.
    r"""
    Return *value* as one line of JSON that is safe to print, and that a parser reads as an equal value.

    >>> json_text({"title": "a\x9b31m"})
    '{"title": "a\\u009b31m"}'

    """
    text = json.dumps(value, ensure_ascii=ascii_only)
    # The pattern can match only inside of JSON strings.
    return text if text.isascii() and "\x7f" not in text else re.sub(_UNPRINTABLE, _as_in_json, text)


def _written_out(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def _as_in_json(match: re.Match[str]) -> str:
    character = match.group()
    # json.dumps does not escape DEL.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
