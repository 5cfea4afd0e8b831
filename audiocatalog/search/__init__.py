"""How tracks are searched: text is checked, becomes a statement, and its rows a page.

The words themselves, of stored tracks and of queries, are made by SQL functions: alembic/functions/search_v1.sql.
"""
