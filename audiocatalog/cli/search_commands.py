"""The commands `search` and `explain`."""

from __future__ import annotations

import dataclasses
from typing import Any, Final
from uuid import UUID

import click

from audiocatalog.cli import options, output, pages
from audiocatalog.cli.options import as_json
from audiocatalog.cli.target import Target
from audiocatalog.models.metadata import FacetName
from audiocatalog.search.results import FACETS, MAX_LIMIT, MAX_OFFSET, SEARCH_ORDERS, SearchOrder

_SORT: Final = click.Choice(SEARCH_ORDERS, case_sensitive=False)


class _QueryCommand(click.Command):
    """A command that explains how to exclude a word when the word was parsed as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*, and give advice on unknown short options."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name.startswith("--"):
                raise
            raise click.UsageError(
                f"No such option: {error.option_name}. To exclude a word, put the query in quotes: 'pink -floyd'", ctx
            ) from None


@click.command(cls=_QueryCommand)
@click.argument("query", nargs=-1)
@options.whole
@click.option("--sort", type=_SORT, default="relevance", show_default=True, help="The order of the hits.")
@click.option(
    "--facet",
    "facets",
    type=click.Choice(FACETS, case_sensitive=False),
    multiple=True,
    help="Count the hits by this field.",
)
@options.filters("--format", "--audio-format")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="The maximum number of hits."
)
@click.option("--offset", type=click.IntRange(0, MAX_OFFSET), default=0, help="The number of hits to skip.")
@click.option("--after", metavar="CURSOR", help="Continue after the page that printed this cursor.")
@as_json
@click.pass_obj
@click.pass_context
def search(
    context: click.Context,
    target: Target,
    /,
    *,
    query: tuple[str, ...],
    sort: SearchOrder,
    facets: tuple[FacetName, ...],
    limit: int,
    offset: int,
    after: str | None,
    whole: bool,
    as_json: bool,
    **filters: Any,  # noqa: ANN401  # Values of several types, which SearchFilters checks.
) -> None:
    """
    Find tracks by words of title, artist, album, genre and year.

    Case, accents and punctuation do not matter. The last word also matches longer words. If no track matches, the
    search finds tracks with similarly spelled words. Put a query with quotes or an exclusion in single quotes:

    \b
      audiocatalog search sigur ro
      audiocatalog search '"dark side" -live'
      audiocatalog search 'artist:bjork OR artist:"sigur ros"' year:1997..1999
      audiocatalog search love --sort year --facet genre --facet decade
      audiocatalog search --status FAILED --updated-since 2024-05-31

    --status, --genre, --format, --artist, --album and --facet can be given several times. A filter with several values
    finds tracks with any of these values. Without a QUERY, the search lists the tracks that meet the filters, newest
    first.
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
    if after is not None and offset:
        raise click.UsageError("--after and --offset both choose the page: leave one of them out", context)
    with options.refusals_by_option():
        narrowed = options.filters_of(filters)
        if not query and narrowed is None:
            raise click.UsageError(
                "Missing argument 'QUERY...': give words to search for, or a filter such as --status",
                context,
            )
        with target.catalog() as catalog:
            page = catalog.search(
                options.text_of(query, whole=whole),
                filters=narrowed,
                limit=limit,
                offset=offset,
                after=after,
                order_by=sort,
                facets=facets,
            )
    start = None if after is not None else offset
    output.show(pages.page_json(page), lambda: pages.print_page(page, start), as_json=as_json)


@click.command(cls=_QueryCommand)
@click.argument("query", nargs=-1, required=True)
@click.argument("id", type=click.UUID)
@options.whole
@options.filters("--format", "--audio-format")
@as_json
@click.pass_obj
def explain(
    target: Target,
    /,
    *,
    query: tuple[str, ...],
    id: UUID,  # noqa: A002
    whole: bool,
    as_json: bool,
    **filters: Any,  # noqa: ANN401
) -> None:
    """
    Explain the position of a track in a search, or its absence.

    ID is the id of the track. Repeat the QUERY and the filters of the `search`.
    """
    with options.refusals_by_option(), target.catalog() as catalog:
        explanation = catalog.explain(options.text_of(query, whole=whole), id, filters=options.filters_of(filters))
    output.show(dataclasses.asdict(explanation) | {"id": str(explanation.id)}, str(explanation), as_json=as_json)
