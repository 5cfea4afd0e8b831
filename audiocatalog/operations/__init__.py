"""
Operations on the database: generators that yield statements and are sent rows.

The method of ``Catalog`` with the same name describes an operation, its arguments and its errors.
"""
