"""The command ``audiocatalog demo``: a story told with real commands on a catalogue of its own."""
