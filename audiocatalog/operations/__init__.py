"""
Operations on the database: generators that yield statements and receive rows.

For the arguments and errors of an operation, see the method of ``Catalog`` with the same name.
"""
