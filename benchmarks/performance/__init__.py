"""How fast tracks are loaded, read and saved, and in how much memory, beside bare psycopg and other libraries."""
