"""Text, numbers and times as the command prints them."""

from __future__ import annotations

from audiocatalog.cli.text import about, clock, counted, lone_surrogate, quoted, time_span


def test_text_for_people() -> None:
    assert [lone_surrogate(text) for text in ("é宇🎵", "a\ud800\udc80", "\udcff")] == [None, "\ud800", "\udcff"]
    assert quoted("x" * 100) == f'"{"x" * 39}…"'
    assert [counted(0, "row"), counted(1, "row"), counted(1234, "row")] == ["0 rows", "1 row", "1,234 rows"]
    assert [about(number) for number in (7, 984, 15_704, 432_028, 10_001_000)] == [
        *("about 7", "about 984", "about 15,700", "about 432,000", "about 10,000,000")
    ]
    assert [clock(0), clock(59.6), clock(225.4), clock(3725)] == ["0:00", "1:00", "3:45", "1:02:05"]
    spans = [-1, 0.0421, 0.9996, 2.5, 59.97, 75, 7200, 93_784, 86_400 * 400]
    assert [time_span(span) for span in spans] == [
        "0 ms",
        "42 ms",
        "1 s",
        "2.5 s",
        "1 min",
        "1 min 15 s",
        "2 h",
        "1 d 2 h",
        "400 d",
    ]
