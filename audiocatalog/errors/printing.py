"""Text that is safe to show: characters that act on a terminal, turn its direction or hide are written out."""

from __future__ import annotations

import json
import re
from typing import Any, Final

#: The inside of a regular expression's brackets: every character that is written out wherever text is shown.
#:
#: - controls, the 8-bit ones too: U+009B begins a terminal's command as ESC [ does, U+0085 ends a line;
#: - the separators of lines and paragraphs, and what turns the direction of text;
#: - what is invisible, such as U+200B, U+FEFF, fillers of Hangul, and tags, which can hold a second text;
#: - lone surrogates, which stand for bytes that are not UTF-8.
_NEVER_SHOWN: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
# Joiners shape Persian and Indic words and make one emoji of several. Beside a Latin letter, or beside each other, they
# only hide. So do variation selectors behind anything but the Chinese characters that they are for.
_BEFORE_A_JOINER: Final = rf"[^\x00-\u02ff\u200c\u200d{_NEVER_SHOWN}]"
_UNPRINTABLE: Final = (
    rf"[{_NEVER_SHOWN}]"
    rf"|(?<!{_BEFORE_A_JOINER})[\u200c\u200d]"
    rf"|[\u200c\u200d](?!{_BEFORE_A_JOINER})"
    r"|(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]"
)
# The surrogates that Python puts in the place of bytes that are not UTF-8 ("surrogateescape").
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str) -> str:
    r"""
    Return *text* with every character written out that would act on a terminal or would not be seen.

    This is the one place that decides what is printable, for messages, tables and JSON.

    >>> escaped("one\ntwo \u202ethree")
    'one\\ntwo \\u202ethree'

    """
    return re.sub(_UNPRINTABLE, _written_out, text)


def json_text(value: Any, *, ascii_only: bool = False) -> str:  # noqa: ANN401  # Whatever JSON can hold.
    r"""
    Return *value* as one line of JSON that is safe to print; what reads it gets equal values.

    >>> json_text({"title": "a\x9b31m"})
    '{"title": "a\\u009b31m"}'

    """
    text = json.dumps(value, ensure_ascii=ascii_only)
    # Outside of its strings, JSON holds nothing that could match.
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
    # json.dumps leaves DEL as it is.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
