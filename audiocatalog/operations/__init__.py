"""What can be asked of the database: SQL out, rows in."""
