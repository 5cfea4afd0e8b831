"""The search for tracks.

- ``query``, ``request``: the parsed text, and the checked arguments;
- ``terms_sql``: the SQL that folds and splits the words of the query;
- ``typed_sql``, ``corrected_sql``, ``sorted_sql``: the statements: by relevance, for corrections, in another order;
- ``search``, ``explanation``, ``vocabulary``: the operations;
- ``results``, ``highlights``, ``folding``: the page that a search returns.

Nothing in this package holds a connection. SQL functions split the text of tracks and of queries into
words: alembic/functions/search_v1.sql.
"""
