"""The methods that a catalogue and a unit of work share."""

from audiocatalog.methods.claiming import Claiming
from audiocatalog.methods.reading import Reading
from audiocatalog.methods.writing import Writing

__all__ = ["Methods"]


class Methods(Reading, Writing, Claiming):
    """The methods of a catalogue, each in a transaction of its own, and of a unit of work, in its transaction."""
