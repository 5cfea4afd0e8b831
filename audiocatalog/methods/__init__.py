"""What a catalogue does in one call and a unit of work does in its transaction: the same names, the same rules."""

from audiocatalog.methods.claiming import Claiming
from audiocatalog.methods.reading import Reading
from audiocatalog.methods.writing import Writing

__all__ = ["Methods"]


class Methods(Reading, Writing, Claiming):
    """Everything that a catalogue and a unit of work can both do."""
