"""The command ``audiocatalog demo``: a story with real commands on a temporary catalogue."""
