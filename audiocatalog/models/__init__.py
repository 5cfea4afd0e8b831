"""What is stored and its values; no statement and no connection."""
