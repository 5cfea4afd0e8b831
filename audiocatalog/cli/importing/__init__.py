"""The command ``audiocatalog import``: from a file's bytes to saved tracks."""
