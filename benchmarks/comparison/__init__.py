"""Whether a call costs more than it did in another revision: both take turns on one server."""
