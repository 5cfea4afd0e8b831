"""The same words in every locale: a Turkish server, an ICU one or none at all finds the same music."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from audiocatalog import Catalog, TrackMetadata, migrations
from audiocatalog.embedded import EmbeddedPostgres
from tests.support.databases import libpq
from tests.support.repository import ROOT

#: Names whose letters change case, class or order with the locale.
HARD = [
    "DIŞ KAPI",
    "İstanbul",
    "ISPARTA",
    "Ispanaklı",
    "ǅ Ǆ",
    "ΣΊΣΥΦΟΣ",
    "Straße",
    "คาราบาว",
    "ខ្មែរ",
    "မြန်မာ",
    "हिन्दी",
    "١٢٣",
    "ᲐᲑᲒ აბგ Ⴀ",
    "ƆDƆ ƏŊ ꞋA",
    "Ⲁⲃ ᎠᎣ 𐐀𐐨 Ⰰ ꙀѠ",
    "Hawaiʻi Don`t rock''n''roll",
    "צה״ל ג׳ורג׳ בית־לחם",
    "سلام، دنيا؟ می\u200cخواهم",
    "हिन्दी। गीत॥",
    "ဟို။ ፡ሰላም።",
    "\ufeffCre\u00adep\u3164 Kid\u2028A",
    "Foo™ ℠ © ♥ !!!",
    "P!nk $NOT BO$$ М@Т ii!İ I!I",
    "夜空's 夜゠空",
]

LOCALES = {
    "C": "LOCALE_PROVIDER libc LOCALE 'C'",
    "C.UTF-8": "LOCALE_PROVIDER libc LOCALE 'C.UTF-8'",
    "glibc en_US": "LOCALE_PROVIDER libc LOCALE 'en_US.UTF-8'",
    "glibc tr_TR": "LOCALE_PROVIDER libc LOCALE 'tr_TR.UTF-8'",
    "ICU tr": "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C.UTF-8'",
    "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'",
}
#: How a server says that it has no such locale or provider; a mistake in the statement is none of these.
UNAVAILABLE = re.compile(r"invalid (?:LC_COLLATE )?locale name|not supported|option \"builtin_locale\" not recognized")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


def words_of(url: str) -> list[tuple[str, str]]:
    """Return every vector and query that a database makes of the examples and of the hard names."""
    with (ROOT / "examples" / "tracks.csv").open(encoding="utf-8", newline="") as file:
        names = [row[field] for row in csv.DictReader(file) for field in ("title", "artist", "album")] + HARD
    with psycopg.connect(libpq(url)) as connection:
        return connection.execute(
            "SELECT audiocatalog_search_vector_v1(name, name, name, name, 1999)::text,"
            " audiocatalog_spell_v1(audiocatalog_words_v1(audiocatalog_fold_v1(name)), false)"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS names(name, place) ORDER BY place",
            [names],
        ).fetchall()


@pytest.mark.parametrize("locale", LOCALES)
def test_a_locale_changes_no_word(server: EmbeddedPostgres, locale: str) -> None:
    name = f"locale_{uuid4().hex}"
    with psycopg.connect(libpq(server.url()), autocommit=True) as admin:
        try:
            admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' {LOCALES[locale]} TEMPLATE template0")
        except psycopg.Error as error:
            if UNAVAILABLE.search(str(error)):
                pytest.skip(f"this server has no such locale: {error.diag.message_primary}")
            raise
    url = make_url(server.url()).set(database=name)
    for each in (url, server.url()):
        migrations.upgrade(each)
    assert words_of(url.render_as_string(hide_password=False)) == words_of(server.url())
    with Catalog(url) as catalog, catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="ISPARTA DIŞ"), audio_path="a")
        assert [hit.track.id for hit in work.search("isparta dis")] == [track.id]
