"""What a team would use otherwise: the SQL of the manual, SQLite's FTS5, and tantivy, each as its makers advise."""

from __future__ import annotations

import importlib
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from benchmarks import absent
from benchmarks.search.data import track_number
from benchmarks.search.load import Database, say
from benchmarks.search.server import connected, libpq
from benchmarks.search.systems import PAGE, Audiocatalog, Query, System

#: The peers by the names that `--peers` takes.
PEERS: Final = ("naive", "fts5", "tantivy")
#: How much a word counts by the field in which it stands, for those that take weights.
_WEIGHTS: Final = {"title": 3.0, "artist": 2.0, "album": 1.0}
_BATCH: Final = 10_000
_UNFINISHED: Final = ".unfinished"


class _Stored(NamedTuple):
    number: int
    title: str
    artist: str
    album: str
    genre: str
    year: int


class _Maker(Protocol):
    def __call__(self, database: Database, folder: Path) -> System: ...


def systems_of(database: Database, folder: Path, peers: list[str]) -> list[System]:
    """Return this package and the *peers* on the tracks of *database*; *folder* is for the files of theirs."""
    makers: dict[str, _Maker] = {"naive": NaiveSql, "fts5": Fts5, "tantivy": Tantivy}
    systems: list[System] = [Audiocatalog(database)]
    for peer in filter(absent.is_present, peers):
        with absent.attempted(peer):
            systems.append(makers[peer](database, folder))
    return systems


def installed(peers: list[str]) -> list[str]:
    """Return those of *peers* that can be measured here; the others are noted as absent."""
    return [peer for peer in peers if peer != "tantivy" or absent.has_modules(peer, "tantivy")]


def _stored(database: Database) -> Iterator[_Stored]:
    """Give what is stored, missing values as empty ones."""
    with psycopg.connect(libpq(database.url)) as connection, connection.cursor("stored") as cursor:
        cursor.itersize = _BATCH
        cursor.execute("SELECT id, title, artist, album, genre, year FROM audio_tracks ORDER BY id")
        for id_, title, artist, album, genre, year in cursor:
            yield _Stored(track_number(id_), title, artist or "", album or "", genre or "", year or 0)


def _make_file(database: Database, folder: Path, kind: str) -> tuple[Path, bool]:
    """Return the path of an index of *database*, and whether it has to be made; those of earlier fillings go."""
    path = folder / f"{kind}-{database.name}-{database.token}"
    if path.exists():
        return path, False
    for old in folder.glob(f"{kind}-{database.name}-????????*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    say(f"{database.name}: indexing with {kind}")
    return path, True


class NaiveSql:
    """Search with ``' & '.join(words)`` in ``to_tsquery``, ranked by ``ts_rank``, on a table of its own."""

    name = "naive SQL"

    def __init__(self, database: Database, folder: Path) -> None:  # noqa: ARG002 - it has no files.
        with connected(database.url) as connection:
            if connection.execute("SELECT to_regclass('benchmark.naive')").fetchone() == (None,):
                say(f"{database.name}: indexing with naive SQL")
                with connection.transaction():
                    self._fill(connection)
                connection.execute("VACUUM (ANALYZE) benchmark.naive")
        self._connection: psycopg.Connection[Any] = psycopg.connect(libpq(database.url), autocommit=True)

    @staticmethod
    def _fill(connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            "CREATE TABLE benchmark.naive (id uuid PRIMARY KEY, title text, artist text, album text, genre text,"
            " year integer, vector tsvector GENERATED ALWAYS AS (setweight(to_tsvector('english', title), 'A')"
            " || setweight(to_tsvector('english', coalesce(artist, '')), 'B')"
            " || setweight(to_tsvector('english', coalesce(album, '')), 'C')) STORED)"
        )
        connection.execute(
            "INSERT INTO benchmark.naive SELECT id, title, artist, album, genre, year FROM audio_tracks ORDER BY id"
        )
        connection.execute("CREATE INDEX ON benchmark.naive USING gin (vector)")

    def search(self, query: Query) -> list[int]:
        """Return the numbers of the first ten tracks, best first."""
        function = "phraseto_tsquery" if query.phrase else "to_tsquery"
        text = " ".join(query.words) if query.phrase else " & ".join(query.words) + ":*" * query.prefix
        conditions, parameters = "", [text]
        if query.genre is not None:
            conditions += " AND genre = %s"
            parameters.append(query.genre)
        if query.years is not None:
            conditions += " AND year BETWEEN %s AND %s"
            parameters += map(str, query.years)
        statement = (
            f"SELECT id, title, artist FROM benchmark.naive, {function}('english', %s) AS wanted"  # noqa: S608 - ours.
            f" WHERE vector @@ wanted{conditions} ORDER BY ts_rank(vector, wanted) DESC LIMIT {PAGE}"
        )
        return [track_number(row[0]) for row in self._connection.execute(statement.encode(), parameters)]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Fts5:
    """Search with SQLite's FTS5, ranked by bm25, accents folded: all words, and if nothing has them all, any."""

    name = "SQLite FTS5"

    def __init__(self, database: Database, folder: Path) -> None:
        path, missing = _make_file(database, folder, "fts5")
        if missing:
            unfinished = path.with_name(path.name + _UNFINISHED)
            self._fill(unfinished, database)
            unfinished.rename(path)
        self._connection = sqlite3.connect(path)

    @staticmethod
    def _fill(path: Path, database: Database) -> None:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE VIRTUAL TABLE tracks USING fts5(title, artist, album, tokenize = 'unicode61 remove_diacritics 2')"
        )
        connection.execute("CREATE TABLE facts (number INTEGER PRIMARY KEY, genre TEXT, year INTEGER)")
        for track in _stored(database):
            connection.execute("INSERT INTO tracks (rowid, title, artist, album) VALUES (?, ?, ?, ?)", track[:4])
            connection.execute("INSERT INTO facts VALUES (?, ?, ?)", (track.number, track.genre, track.year))
        weights = ", ".join(map(str, _WEIGHTS.values()))
        connection.execute("INSERT INTO tracks (tracks, rank) VALUES ('rank', ?)", [f"bm25({weights})"])
        connection.execute("INSERT INTO tracks (tracks) VALUES ('optimize')")
        connection.commit()
        connection.execute("ANALYZE")
        connection.close()

    def search(self, query: Query) -> list[int]:
        """Return the numbers of the first ten tracks, best first."""
        quoted = ['"' + word.replace('"', '""') + '"' for word in query.words]
        if query.phrase:
            return self._match(" + ".join(quoted), query)
        if query.prefix:
            quoted[-1] += "*"
        return self._match(" AND ".join(quoted), query) or self._match(" OR ".join(quoted), query)

    def _match(self, match: str, query: Query) -> list[int]:
        joined, parameters = "", [match]
        if query.genre is not None:
            joined += " AND genre = ?"
            parameters.append(query.genre)
        if query.years is not None:
            joined += " AND year BETWEEN ? AND ?"
            parameters += map(str, query.years)
        table = "tracks JOIN facts ON facts.number = tracks.rowid" if joined else "tracks"
        statement = (
            f"SELECT tracks.rowid, title, artist FROM {table} WHERE tracks MATCH ?{joined}"  # noqa: S608 - our own text.
            f" ORDER BY rank LIMIT {PAGE}"
        )
        return [number for number, *_ in self._connection.execute(statement, parameters)]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Tantivy:
    """Search with tantivy, accents folded: all words, and if nothing has them all, any word within one edit."""

    name = "tantivy"
    #: What its query language gives a meaning to.
    _SYNTAX: Final = re.compile(r"""[+^`:{}"'\[\]()!~\\*<>=/-]""")

    def __init__(self, database: Database, folder: Path) -> None:
        # Not an import statement: the types of this package are checked where tantivy is not installed, too.
        self._tantivy: Any = importlib.import_module("tantivy")
        path, missing = _make_file(database, folder, "tantivy")
        if missing:
            unfinished = path.with_name(path.name + _UNFINISHED)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            self._fill(unfinished, database)
            unfinished.rename(path)
        self._index = self._open(path)
        self._index.reload()
        self._searcher = self._index.searcher()

    def _open(self, path: Path) -> Any:  # noqa: ANN401 - tantivy need not be installed where types are checked.
        tantivy = self._tantivy
        schema = tantivy.SchemaBuilder()
        schema.add_unsigned_field("number", stored=True)
        for name in _WEIGHTS:
            schema.add_text_field(name, stored=True, tokenizer_name="folded")
        schema.add_text_field("genre", tokenizer_name="raw")
        schema.add_unsigned_field("year", indexed=True, fast=True)
        index = tantivy.Index(schema.build(), path=str(path))
        folded = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        folded = folded.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.ascii_fold())
        index.register_tokenizer("folded", folded.build())
        return index

    def _fill(self, path: Path, database: Database) -> None:
        index = self._open(path)
        writer = index.writer(heap_size=256_000_000, num_threads=2)
        for track in _stored(database):
            writer.add_document(self._tantivy.Document.from_dict(track._asdict(), index.schema))
        writer.commit()
        writer.wait_merging_threads()

    def search(self, query: Query) -> list[int]:
        """Return the numbers of the first ten tracks, best first."""
        # In lower case, AND, OR, NOT and IN are words.
        text = self._SYNTAX.sub(" ", query.text).lower()
        if query.phrase:
            return self._match(self._parse(f'"{text.strip()}"'), query)
        if query.prefix:
            return self._match(self._beginning(text.split()), query)
        return self._match(self._parse(text, conjunction_by_default=True), query) or self._match(
            self._parse(text, fuzzy_fields=dict.fromkeys(_WEIGHTS, (False, 1, True))), query
        )

    def _parse(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - see above.
        parsed, _ = self._index.parse_query_lenient(text, list(_WEIGHTS), field_boosts=_WEIGHTS, **options)
        return parsed

    def _beginning(self, words: list[str]) -> Any:  # noqa: ANN401 - see above.
        tantivy, schema = self._tantivy, self._index.schema
        last = [
            (tantivy.Occur.Should, tantivy.Query.regex_query(schema, name, re.escape(words[-1]) + ".*"))
            for name in _WEIGHTS
        ]
        parts = [(tantivy.Occur.Must, tantivy.Query.boolean_query(last))]
        if words[:-1]:
            parts.append((tantivy.Occur.Must, self._parse(" ".join(words[:-1]), conjunction_by_default=True)))
        return tantivy.Query.boolean_query(parts)

    def _match(self, parsed: Any, query: Query) -> list[int]:  # noqa: ANN401 - see above.
        tantivy, schema = self._tantivy, self._index.schema
        parts = [(tantivy.Occur.Must, parsed)]
        if query.genre is not None:
            parts.append((tantivy.Occur.Must, tantivy.Query.term_query(schema, "genre", query.genre)))
        if query.years is not None:
            kind = tantivy.FieldType.Unsigned
            parts.append((tantivy.Occur.Must, tantivy.Query.range_query(schema, "year", kind, *query.years)))
        combined = tantivy.Query.boolean_query(parts) if len(parts) > 1 else parsed
        hits = self._searcher.search(combined, PAGE, count=False).hits
        return [self._searcher.doc(address)["number"][0] for _, address in hits]

    def close(self) -> None:
        """Nothing is held open."""
