"""How tracks are searched: what was typed becomes a request, a statement answers it, and its rows become a page.

``query`` parses the text, ``filters`` what narrows it, and ``request`` holds both, checked. ``reading`` is the SQL that
reads the words, ``statement`` looks for them as they were typed, ``widening`` for what else may have been meant, and
``listing`` in another order. ``page``, ``highlights`` (by ``folding``) and ``explanation`` are what callers get,
``vocabulary`` counts the words. Nothing in here holds a connection: ``audiocatalog.search.search`` and
``audiocatalog.search.explaining`` do.

The words themselves, of stored tracks and of queries, are made by SQL functions: alembic/functions/search_v1.sql.
"""
