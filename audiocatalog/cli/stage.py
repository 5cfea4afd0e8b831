"""Where the demo prints its story, and counts the claims in it that were checked."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
from rich.text import Text

from audiocatalog import Catalog, SearchPage
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.output import Output, print_page
from audiocatalog.cli.story import Claim
from audiocatalog.cli.target import Target
from audiocatalog.errors import CatalogError

_WIDTH: Final = 100
_Error = TypeVar("_Error", bound=CatalogError)


class Stage:
    """Show a thing, do it, tell what came out, and fail if that is not what was promised."""

    def __init__(self) -> None:
        self.output = Output(_WIDTH)
        self.claims = 0

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self.output.print()
        self.output.print(Text(text, "bold"))

    def say(self, text: str) -> None:
        """Tell something."""
        self.output.print()
        self.output.print(text)

    def code(self, text: str) -> None:
        """Show Python or a command line."""
        self.output.print()
        self.output.print(Text(textwrap.indent(text, "    "), "cyan"))

    def check(self, *, holds: bool, claim: str) -> None:
        """Count a *claim* that *holds*, or end the demo."""
        if not holds:
            raise Failure(f"the demo claims what does not hold: {claim}")
        self.claims += 1

    def run(self, shown: str, command: click.Command, arguments: Sequence[str], target: Target) -> None:
        """Run *command* of this program, which prints for itself."""
        self.code(f"$ {shown}")
        # Not by command.main, which would make another error of Ctrl-C.
        with command.make_context(shown, list(arguments), obj=target) as context:
            try:
                command.invoke(context)
            except click.exceptions.Exit as end:
                self.check(holds=end.exit_code == 0, claim=f"`{shown}` succeeds")
        self.claims += 1

    def act(self, function: Callable[[Catalog], Claim], catalog: Catalog) -> None:
        """Do what *function* does, and tell its answer."""
        self.code(body_of(function))
        claim = function(catalog)
        self._answer(claim.answer, "green")
        self.check(holds=claim.holds, claim=claim.answer)

    def search(self, function: Callable[[Catalog], SearchPage], catalog: Catalog) -> SearchPage:
        """Do the search that *function* does, and print and return what it finds."""
        self.code(body_of(function))
        page = function(catalog)
        self.output.print()
        print_page(page, 0, self.output)
        return page

    def refusal(self, function: Callable[[Catalog], None], catalog: Catalog, expected: type[_Error]) -> _Error:
        """Try what *function* does, which must be refused by an *expected* error, and return that."""
        self.code(body_of(function))
        try:
            function(catalog)
        except expected as error:
            self._answer(f"{type(error).__name__}: {error}", "yellow")
            self.claims += 1
            return error
        raise Failure(f"the demo claims what does not hold: {expected.__name__} is raised")

    def _answer(self, text: str, style: str) -> None:
        arrow = self.output.symbol("→", "->")
        for number, line in enumerate(textwrap.wrap(text, self.output.width - 8)):
            self.output.print(Text(f"    {arrow if number == 0 else ' ' * len(arrow)} {line}", style))


def body_of(function: Callable[..., Any]) -> str:
    """Return what *function* does: its body between the docstring and the last return."""
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)  # noqa: S101
    shown = definition.body[1:-1] if isinstance(definition.body[-1], ast.Return) else definition.body[1:]
    return textwrap.dedent("\n".join(source.splitlines()[shown[0].lineno - 1 : shown[-1].end_lineno]))
