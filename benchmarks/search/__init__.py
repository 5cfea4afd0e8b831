"""Measure the search beside others: what it finds, and how long it takes as the table grows."""
