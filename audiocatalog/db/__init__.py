"""Connections to the database, their pool, and the execution of operations on a connection."""
