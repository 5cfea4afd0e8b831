"""
Character classes for regular expressions in Python and in SQL functions.

A revision copies the classes into the functions that it creates, so a released class never changes. A new class gets a
new name, with the next version of the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Every character that is invisible on a page: spaces, controls and formats (Unicode categories Z, Cc and Cf),
#: fillers and other default-ignorables.
INVISIBLE: Final = (
    r"\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680"
    r"\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
#: The characters that separate the terms of a query.
BLANKS: Final = r"\u0001-\u0020\u007f-\u00a0\u1680\u2028\u2029\u2800\u3000"
#: The characters that separate words: blanks, punctuation and symbols.
SEPARATORS: Final = (
    r"\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02eb\u02ed\u02ef-\u02ff\u0375"
    r"\u03f6\u0482\u055b-\u055f\u0589-\u058f\u05be-\u05c6\u0600-\u061f\u066a-\u066d\u06d4\u06dd\u06de\u06e9"
    r"\u06fd\u06fe\u0700-\u070d\u07f6-\u07f9\u07fe\u07ff\u0830-\u083e\u085e\u0888\u0964\u0965\u0970"
    r"\u09f2\u09f3\u09fa\u09fb\u09fd\u0a76\u0af0\u0af1\u0b70\u0bf3-\u0bfa\u0c77\u0c7f\u0c84\u0d4f\u0d79\u0df4"
    r"\u0e3f\u0e4f\u0e5a\u0e5b\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85\u0fbe-\u0fc5"
    r"\u0fc7-\u0fda\u104a-\u104f\u109e\u109f\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d\u166e\u1680"
    r"\u169b\u169c\u16eb-\u16ed\u1735\u1736\u17d4-\u17d6\u17d8-\u17db\u1800-\u180a\u1940-\u1945\u19de-\u19ff"
    r"\u1a1e\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad\u1b4e\u1b4f\u1b5a-\u1b6a\u1b74-\u1b7f\u1bfc-\u1bff\u1c3b-\u1c3f"
    r"\u1c7e\u1c7f\u1cc0-\u1cc7\u1cd3\u2000-\u2131\u2133-\u214d\u214f-\u217f\u2189-\u2bff\u2ce5-\u2cea"
    r"\u2cf9-\u2cfc\u2cfe\u2cff\u2d70\u2e00-\u2e2e\u2e30-\u2ef2\u2ff0-\u3004\u3008-\u3020\u3030\u3037"
    r"\u303d-\u303f\u30a0\u30fb\u3190\u3191\u31c0-\u31ef\u327f\u4dc0-\u4dff\ua490-\ua4c6\ua4fe\ua4ff"
    r"\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720\ua721\ua789\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877"
    r"\ua8ce\ua8cf\ua8f8-\ua8fa\ua8fc\ua92e\ua92f\ua95f\ua9c1-\ua9cd\ua9de\ua9df\uaa5c-\uaa5f\uaa77-\uaa79"
    r"\uaade\uaadf\uaaf0\uaaf1\uab5b\uab6a\uab6b\uabeb\ufbb2-\ufbc2\ufd3e-\ufd4f\ufdcf\ufdfd-\ufe6f"
    r"\ufff0-\uffff\U0001d000-\U0001d24f\U0001d300-\U0001d356\U0001f000-\U0001fbef"
)
#: The characters of scripts without spaces. Each of these characters is a separate word, unless it is a separator.
ALONE: Final = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)

#: The names of the classes in files of SQL functions, such as ``[{separators_v1}]``.
CHARACTERS: Final[Mapping[str, str]] = {
    "invisible_v1": INVISIBLE,
    "blanks_v1": BLANKS,
    "separators_v1": SEPARATORS,
    "alone_v1": ALONE,
}
