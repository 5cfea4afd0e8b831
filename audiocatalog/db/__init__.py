"""Everything that holds a connection."""
