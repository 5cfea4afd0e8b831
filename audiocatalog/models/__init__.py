"""The stored tables and the values of their fields, without statements and connections."""
