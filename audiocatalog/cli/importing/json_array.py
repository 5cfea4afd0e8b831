"""A reader of a JSON array, one element at a time in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.importing.lines import LONGEST_ROW, Lines
from audiocatalog.cli.importing.rows import Place, Row, parse_object

# _TOKEN matches outside of strings: a whole string, or a sign where an element may begin or end. A lone quotation mark
# begins a string that continues in the next part of the file. _IN_STRING matches the rest of such a string, up to its
# closing quotation mark or the end of the part, which may be a backslash.
_TOKEN: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|(["{}\[\],])', re.DOTALL)
_IN_STRING: Final = re.compile(r'(?:[^"\\]++|\\.)*+(["\\]?)', re.DOTALL)
_NESTING: Final = {"{": 1, "[": 1, "}": -1, "]": -1}
_LINE_ENDS: Final = re.compile(r"[\r\n]+")
_END_IS_MISSING: Final = "the JSON array has no end: is the file cut off, or a quotation mark missing?"


class JsonArrayFile:
    """
    The rows of a JSON array, one for each element.

    Only brackets and commas show where an element ends, so that a bad element does not affect its neighbours.
    """

    def __init__(self, lines: Lines) -> None:
        self._parts = lines.parts()
        self._encoding = lines.encoding

    @staticmethod
    def fits(lines: Lines) -> bool:
        """Return whether the file begins with a bracket."""
        return (lines.peek() or "").lstrip().startswith("[")

    def __iter__(self) -> Iterator[Row]:
        count = 0
        for text, length in self._elements():
            count += 1
            if text is None:
                yield Row(Place(count), {}, f"longer than {LONGEST_ROW:,} characters", None, length)
                continue
            cells, problem = parse_object(text, self._encoding)
            # In JSON, line ends occur only between tokens, so the row can be kept as one line.
            yield Row(Place(count), cells, problem, _LINE_ENDS.sub(" ", text), length)

    def _elements(self) -> Iterator[tuple[str | None, int]]:
        """
        Yield the text of each element and its length. The text is None if it is too long.

        Raises:
            DamagedFile: the array has no end, or text follows it.
        """
        element, length = list[str](), 0
        for text, end in self._pieces():
            if length <= LONGEST_ROW:
                element.append(text)
            length += len(text)
            if not end:
                continue
            whole = "".join(element).strip()
            if length > LONGEST_ROW:
                yield None, length
            elif whole or end == ",":
                yield whole, length
            element, length = [], 0

    def _pieces(self) -> Iterator[tuple[str, str]]:
        """Yield pieces of the elements, each with the sign that ends the element, or "" if the element continues."""
        part, start, place, depth, is_open = next(self._parts, "").lstrip(), 1, 1, 0, False
        while True:
            token = (_IN_STRING.match if is_open else _TOKEN.search)(part, place)
            sign, place = (token[1], token.end()) if token else ("", len(part))
            if is_open:
                is_open = sign != '"'
                # A backslash at the end of the part escapes the first sign of the next part.
                place += sign == "\\"
            elif sign == '"':
                is_open = True
            elif depth or sign not in {",", "]"}:
                depth = max(0, depth + _NESTING.get(sign, 0))
            else:
                yield part[start : place - 1], sign
                start = place
                if sign == "]":
                    break
            if place >= len(part):
                yield part[start:], ""
                start, place, part = 0, place - len(part), next(self._parts, "")
                if not part:
                    raise DamagedFile(_END_IS_MISSING)
        if part[place:].strip() or any(rest.strip() for rest in self._parts):
            raise DamagedFile("text follows the end of the JSON array")
