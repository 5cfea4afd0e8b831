"""The pages of a search on a terminal: hits with their matches, counts, and the option for the next page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from audiocatalog import Facet, Hit, SearchPage, Track
from audiocatalog.cli.output import UNKNOWN, Output, track_json
from audiocatalog.cli.text import about, clock, counted
from audiocatalog.errors.printing import escaped
from audiocatalog.search.results import MAX_TERMS, Span
from audiocatalog.search.sorted_sql import COUNTED

#: On a terminal at least this wide, a hit and its id fit on one line.
_WIDE: Final = 132
#: The column of artists is at least as wide as its heading.
_NARROWEST: Final = len("artist, album")
_MATCH: Final = "bold underline"
_PARTIAL: Final = (
    "the search timed out and may lack hits: add words or filters, or raise the seconds in AUDIOCATALOG_SEARCH_TIMEOUT"
)


def page_json(page: SearchPage) -> dict[str, Any]:
    """Return all fields of *page*, ready for JSON."""
    return {
        "hits": [track_json(hit.track) | {"score": hit.score, "highlights": dict(hit.highlights)} for hit in page],
        "total": page.total,
        "is_total_exact": page.is_total_exact,
        "next_cursor": page.next_cursor,
        "suggestion": page.suggestion,
        "facets": {
            name: {
                "values": [value._asdict() for value in facet.values],
                "is_exact": facet.is_exact,
                "is_complete": facet.is_complete,
            }
            for name, facet in page.facets.items()
        },
        "is_partial": page.is_partial,
        "ignored_terms": page.ignored_terms,
    }


def print_page(page: SearchPage, offset: int | None = 0, output: Output | None = None) -> None:
    """Print a page that begins after *offset* hits, or after a cursor if *offset* is None."""
    output = output or Output()
    if page.suggestion:
        output.print(Text.assemble('did you mean "', (escaped(page.suggestion), "bold"), '"?'))
        output.print()
    if page.hits:
        output.lay_out(_one_line_each(output, page) if output.width >= _WIDE else _two_lines_each(output, page))
        output.print()
    output.print(_place(page, offset))
    if page.next_cursor:
        # With soft wrapping, a terminal copies the cursor as one word.
        way = f"next page: --after {page.next_cursor}{' (without --offset)' if offset else ''}"
        output.print(Text(way, "dim"), soft_wrap=True)
    if page.is_partial:
        output.print(_PARTIAL, style="yellow")
    if page.ignored_terms:
        output.print(f"the search used the first {MAX_TERMS} words and ignored {page.ignored_terms}", style="yellow")
    _print_facets(output, page.facets, is_least=_is_least(page))


def _place(page: SearchPage, offset: int | None) -> str:
    """Return the positions of the hits of *page*, and the total."""
    if not page.hits and not page.total:
        return "no hits"
    estimate = f"at least {page.total:,} hits" if _is_least(page) else f"{about(page.total)} hits"
    total = counted(page.total, "hit") if page.is_total_exact else estimate
    is_all = page.is_total_exact and len(page) == page.total
    if is_all or not page.hits:
        return total
    if offset is None:
        return f"{len(page):,} more of {total}"
    first, last = offset + 1, offset + len(page)
    return f"{first:,} of {total}" if first == last else f"{first:,} to {last:,} of {total}"


def _is_least(page: SearchPage) -> bool:
    """Return whether counting ended at its limit, so that the total is a minimum."""
    return not page.is_total_exact and page.total == COUNTED


def _print_facets(output: Output, facets: Mapping[str, Facet], *, is_least: bool) -> None:
    for name, facet in facets.items():
        table = output.table(name, "hits", right=("hits",))
        for value, tracks in facet.values:
            shown = f"{value}s" if name == "decade" else escaped(str(value))
            estimate = f"at least {tracks:,}" if is_least else about(tracks, digits=2)
            table.add_row(Text(shown), f"{tracks:,}" if facet.is_exact else estimate)
        if not facet.is_complete:
            table.add_row(Text("and others", "dim"), "")
        elif not facet.values:
            table.add_row(Text("none", "dim"), "")
        output.print()
        output.lay_out(table)


def _one_line_each(output: Output, page: SearchPage) -> Table:
    table = output.table("artist", "title", "album", "year", "length", "status", "id", right=("year", "length"))
    for column in table.columns[3:]:
        column.no_wrap = True
    for hit in page:
        texts = (_highlighted(hit, "artist"), _highlighted(hit, "title"), _album(hit, UNKNOWN))
        table.add_row(*texts, *_figures(hit.track), Text(str(hit.track.id), "dim"))
    return table


def _two_lines_each(output: Output, page: SearchPage) -> Table:
    """Return a table for narrow terminals, with album and id on a second line."""
    table = output.table("artist, album", "title, id", "year", "length", "status", right=("year", "length"))
    for column in table.columns[2:]:
        column.no_wrap = True
    table.columns[1].min_width = len(str(page.hits[0].track.id))
    for hit in page:
        table.add_row(_highlighted(hit, "artist"), _highlighted(hit, "title"), *_figures(hit.track))
        table.add_row(_album(hit, ""), Text(str(hit.track.id), "dim"), style="dim")
    # The layout would shrink the column of ids, which is the widest. So the column of artists is limited instead.
    figures = sum(2 + max(len(str(cell)) for cell in (column.header, *column.cells)) for column in table.columns[2:])
    table.columns[0].max_width = max(_NARROWEST, output.width - figures - 2 - (table.columns[1].min_width or 0))
    return table


def _figures(track: Track) -> tuple[str, str, str]:
    length = UNKNOWN if track.duration is None else clock(track.duration)
    return str(track.year or UNKNOWN), length, str(track.status)


def _album(hit: Hit, unknown: str) -> Text:
    """Return the album of a hit, and the genre if it matched, because no column shows the genre."""
    album = _highlighted(hit, "album") if hit.track.album else Text(unknown)
    if "genre" not in hit.highlights:
        return album
    genre = Text.assemble("(", _highlighted(hit, "genre"), ")")
    return Text.assemble(album, " ", genre) if hit.track.album else genre


def _highlighted(hit: Hit, field: str) -> Text:
    """Return a field of a hit with its matches marked. Escaping changes lengths, so pieces are escaped separately."""
    value, text, done = getattr(hit.track, field), Text(), 0
    if value is None:
        return Text(UNKNOWN)
    spans: Sequence[Span] = hit.highlights.get(field, ())
    for start, end in spans:
        text.append(escaped(value[done:start]))
        text.append(escaped(value[start:end]), _MATCH)
        done = end
    return text.append(escaped(value[done:]))
