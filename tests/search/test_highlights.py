"""The characters that matched are marked in the original text, and Python reads words as the server does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from audiocatalog import Track
from audiocatalog.models.characters import BLANKS, INVISIBLE, SEPARATORS
from audiocatalog.search.folding import fold, tokenize
from audiocatalog.search.highlights import WantedWords, highlights_of
from audiocatalog.search.results import Span


def wanted(written: str, fields: Iterable[str] | None = None) -> WantedWords:
    """Read ``ac dc|acd*``: alternatives, each a run of words; a star lets the last word of each go on."""
    return WantedWords(
        tuple(tuple(spelling.split()) for spelling in written.rstrip("*").split("|")),
        is_prefix=written.endswith("*"),
        fields=None if fields is None else frozenset(fields),
    )


def spans_of(text: str, *things: WantedWords) -> tuple[Span, ...]:
    return highlights_of(Track(title=text), things).get("title", ())


def marked(text: str, spans: Iterable[Span]) -> str:
    """Put brackets around the *spans* of *text*."""
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text


@pytest.mark.parametrize(
    ("text", "things", "expected"),
    [
        # plain words
        ("Kid A", ["kid"], "[Kid] A"),
        ("Kid A", ["ki"], "Kid A"),
        ("Kid A", ["kid", "a"], "[Kid] [A]"),
        ("Kid A", ["kid a"], "[Kid A]"),
        ("Kid  A", ["kid a"], "[Kid  A]"),
        ("A Kid A", ["kid a", "a kid"], "[A Kid A]"),
        ("The The", ["the"], "[The] [The]"),
        ("The The The", ["the the"], "[The The The]"),
        ("Kid A", ["a kid"], "Kid A"),
        ("Kid A", [], "Kid A"),
        ("Kid A", [""], "Kid A"),
        # the last word may go on
        ("Radiohead", ["radio*"], "[Radio]head"),
        ("Radiohead", ["radiohead*"], "[Radiohead]"),
        ("Radiohead", ["head*"], "Radiohead"),
        ("In Rainbows", ["in rain*"], "[In Rain]bows"),
        ("Rain in Rainbows", ["rain*"], "[Rain] in [Rain]bows"),
        ("Radiohead", ["radio*", "radioh*"], "[Radioh]ead"),
        # accents, composed and not
        ("Björk", ["bjork"], "[Björk]"),
        ("Björk", ["bjo*"], "[Bjö]rk"),
        ("Bjo\u0308rk", ["bjo*"], "[Bjo\u0308]rk"),
        ("Bjo\u0308rk", ["bj*"], "[Bj]o\u0308rk"),
        ("Bjo\u0323\u0308", ["bjo"], "[Bjo\u0323\u0308]"),
        ("Dvořák", ["dvor*"], "[Dvoř]ák"),
        ("ΜΊΚΗΣ Θεός", ["μικησ", "θ*"], "[ΜΊΚΗΣ] [Θ]εός"),
        ("Ёлка ёлки", ["елк*"], "[Ёлк]а [ёлк]и"),
        ("فَيروز", ["في*"], "[فَي]روز"),
        ("مـحـمد", ["مح*"], "[مـحـ]مد"),
        # one character, several letters
        ("Straße", ["strasse"], "[Straße]"),
        ("Straße", ["stras*"], "[Straß]e"),
        ("Straße", ["strass*"], "[Straß]e"),
        ("ﬁn", ["f*"], "[ﬁ]n"),
        ("Ænima", ["ae*"], "[Æ]nima"),
        ("３½ ㍿", ["31*", "株 式"], "[３½] [㍿]"),
        ("Hall & Oates", ["and"], "Hall [&] Oates"),
        ("Hall & Oates", ["hall and oates"], "[Hall & Oates]"),
        ("R&B Ö", ["r and b"], "[R&B] Ö"),
        # punctuation
        ("Stop (Live)", ["live"], "Stop ([Live])"),
        ("AC/DC", ["ac dc|acdc"], "[AC/DC]"),
        ("AC/DC", ["dc"], "AC/[DC]"),
        ("AC/DC", ["ac", "dc"], "[AC]/[DC]"),
        ("AC/DC", ["acd*"], "[AC/D]C"),
        ("P!nk", ["pink"], "[P!nk]"),
        ("P!nk", ["pi*"], "[P!]nk"),
        ("P!nk", ["pnk"], "[P!nk]"),
        ("(Ke$ha)", ["kesha"], "([Ke$ha])"),
        ("BO$$", ["boss"], "[BO$$]"),
        ("$NOT", ["snot"], "[$NOT]"),
        ("$NOT", ["not"], "$[NOT]"),
        ("Help!", ["help"], "[Help]!"),
        ("Help!", ["helpi"], "Help!"),
        ("М@т", ["мaт"], "[М@т]"),
        ("R.E.M.", ["rem"], "[R.E.M]."),
        ("!!! (Chk)", ["=symbol:212121"], "[!!!] (Chk)"),
        ("!!!", ["=symbol:21*"], "[!]!!"),
        ("!!!", ["symbol212121"], "!!!"),
        ("÷ +", ["=symbol:c3b7"], "[÷] +"),
        ("Foo™", ["foo"], "[Foo]™"),
        ("Foo℠ 🅫Bar", ["foo", "bar"], "[Foo]℠ 🅫[Bar]"),
        ("© Foo® ℗ 20°", ["foo", "20"], "© [Foo]® ℗ [20]°"),
        ("سلام، دنيا؟", ["سلام", "دنيا"], "[سلام]، [دنيا]؟"),
        ("بيت־לחם־", ["לחם"], "بيت־[לחם]־"),
        ("गीत। हिन्दी॥", ["गीत", "हिन्दी"], "[गीत]। [हिन्दी]॥"),
        ("ሰላም፡ዓለም።", ["ዓለም"], "ሰላም፡[ዓለም]።"),
        ("𝄞Love𝅘𝅥𝅮", ["love"], "𝄞[Love]𝅘𝅥𝅮"),
        # what cannot be seen
        ("\ufeffCreep", ["creep"], "\ufeff[Creep]"),
        ("Cre\u00adep", ["creep"], "[Cre\u00adep]"),
        ("Cre\u200be\u2060p", ["cree*"], "[Cre\u200be\u2060]p"),
        ("Creep\u3164 \U000e0041Kid", ["creep kid"], "[Creep\u3164 \U000e0041Kid]"),
        ("می\u200cخواهم", ["میخواهم"], "[می\u200cخواهم]"),
        ("か\u2060\u3099", ["が"], "[か\u2060\u3099]"),
        ("Kid\u2028A\u1680B", ["kid a b"], "[Kid\u2028A\u1680B]"),
        ("1\ufe0f\u20e3 Love", ["1 love"], "[1\ufe0f\u20e3 Love]"),
        # apostrophes
        ("Don't", ["dont"], "[Don't]"),
        ("Don’t", ["don*"], "[Don]’t"),
        ("Don’t", ["dont*"], "[Don’t]"),
        ("Rock'n'Roll!", ["rocknroll"], "[Rock'n'Roll]!"),
        ("Rock'n'Roll", ["rock n roll"], "[Rock'n'Roll]"),
        ("Rock'n'Roll", ["roll"], "Rock'n'[Roll]"),
        ("D'Angelo´s", ["angelo"], "D'[Angelo]´s"),
        ("Rockin' 'n' Rollin'", ["n", "rollin"], "Rockin' '[n]' [Rollin]'"),
        ("Believin' It", ["believin it"], "[Believin' It]"),
        ("Don`t", ["dont"], "[Don`t]"),
        ("rock''n''roll", ["rock n roll", "rocknroll"], "[rock''n''roll]"),
        ("Hawaiʻi ʹQurʾānʹ", ["hawaii", "quran"], "[Hawaiʻi] ʹ[Qurʾān]ʹ"),
        ("Ꞌaꞌa", ["aa"], "Ꞌ[aꞌa]"),
        ("צה״ל ג׳ורג׳", ["צהל", "גורג"], "[צה״ל] [ג׳ורג]׳"),
        ("Հա՚յ", ["հայ"], "[Հա՚յ]"),
        # scripts
        ("夜と空の夜空", ["夜 空"], "夜と空の[夜空]"),
        ("夜夜空", ["夜"], "[夜夜]空"),
        ("夜空's", ["夜 空 s"], "[夜空's]"),
        ("夜゠空", ["夜 空"], "[夜゠空]"),
        ("ဟို။", ["ဟ ိ ု"], "[ဟို]။"),
        ("ᲐᲑᲒ Ɔdɔ Ⲁⲁ ᎠᎣ 𐐀𐐨", ["აბგ", "ɔdɔ", "ⲁⲁ", "ꭰꭳ", "𐐨𐐨"], "[ᲐᲑᲒ] [Ɔdɔ] [Ⲁⲁ] [ᎠᎣ] [𐐀𐐨]"),
        ("宇多田ヒカル", ["田 ヒ カ*"], "宇多[田ヒカ]ル"),
        ("ｶﾞﾗｽ", ["カ"], "ｶﾞﾗｽ"),
        ("ｶﾞﾗｽ", ["ガ"], "[ｶﾞ]ﾗｽ"),
        ("방탄소년단", ["방탄*"], "[방탄]소년단"),
        ("\u1107\u1161\u11bc단", ["방*"], "[\u1107\u1161\u11bc]단"),
        ("लता मंगेशकर", ["मंग*"], "लता [मंगे]शकर"),
        ("กิน", ["ก"], "[กิ]น"),
        ("กิน", ["น"], "กิ[น]"),
        ("♥\ufe0f Love", ["love"], "♥\ufe0f [Love]"),
    ],
)
def test_what_matched_is_marked(text: str, things: list[str], expected: str) -> None:
    assert marked(text, spans_of(text, *map(wanted, things))) == expected


def test_each_field_is_marked_unless_others_were_asked_for() -> None:
    track = Track(title="Hurt", artist="Hurt", album="Hurt so good", genre=None)
    assert highlights_of(track, [wanted("hurt")]) == {"title": ((0, 4),), "artist": ((0, 4),), "album": ((0, 4),)}
    assert highlights_of(track, [wanted("hurt", ["artist", "genre"])]) == {"artist": ((0, 4),)}
    assert highlights_of(track, [wanted("hurt", []), wanted("good", ["title"])]) == {}


def test_wanted_words_are_values() -> None:
    assert wanted("ac dc|acdc*") == WantedWords((("ac", "dc"), ("acdc",)), is_prefix=True)
    assert {wanted("a"), wanted("a"), wanted("a*")} == {wanted("a*"), wanted("a")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Kid A", [("kid", "Kid"), ("a", "A")]),
        ("AC/DC", [("ac", "AC"), ("dc", "DC"), ("acdc", "AC/DC")]),
        ("P!nk", [("p", "P"), ("nk", "nk"), ("pnk", "P!nk"), ("pink", "P!nk")]),
        ("Help!", [("help", "Help")]),
        ("$NOT", [("not", "NOT"), ("snot", "$NOT")]),
        ("A$AP", [("a", "A"), ("ap", "AP"), ("aap", "A$AP"), ("asap", "A$AP")]),
        ("$uicideboy$", [("uicideboy", "uicideboy"), ("suicideboys", "$uicideboy$")]),
        ("BO$$", [("bo", "BO"), ("boss", "BO$$")]),
        ("a-'b", [("a", "a"), ("b", "b"), ("ab", "a-'b")]),
        ("r''n", [("rn", "r''n"), ("r", "r"), ("n", "n")]),
        ("夜's", [("夜", "夜"), ("s", "s"), ("夜", "夜"), ("s", "s")]),
        ("Foo™Bar", [("foo", "Foo"), ("bar", "Bar"), ("foobar", "Foo™Bar")]),
        ("Cre\u00adep", [("creep", "Cre\u00adep")]),
        ("\ufeff\u3164", []),
        ("e\u0301t\u00e9", [("ete", "e\u0301t\u00e9")]),
        ("D’A ", [("da", "D’A"), ("d", "D"), ("a", "A")]),
        ("a" * 201, [("a" * 200, "a" * 200), ("a", "a")]),
        ("a-" * 201, [("a", "a")] * 201),
        ("!" * 51, [("=symbol:" + "21" * 50, "!" * 50)]),
    ],
)
def test_words_know_what_they_cover(text: str, words: list[tuple[str, str]]) -> None:
    assert [(word, text[start:end]) for word, start, end in tokenize(text).words()] == words


# Characters that folding treats in different ways; random text of all there are would hold few of them.
CHARACTERS = (
    "aAbzZ09 \t\u00a0\u3000'’`´&＆$!@!/.-()_‐–÷×«"
    "éÉøßẞæŒþŁđıİſﬁǅ½²㍿ＡＢŉΣςάΜЁйїԱև"
    "e\u0301\u0308\u0323\u0345\u0344\u20d0\ufe0f\u200b\u200d\u034f"
    "\u0640\u064b\u0670\ufe71\ufe76שׁ\u05b8\u05bf"
    "宇多夜ヒカがカ゛\u3099\u309a\uff76\uff9e\uff9fー・々\uf900"
    "방\u1107\u1161\u11bc\u1160\u11ff\u3131\uffa1\uffc2"
    "กิาำ\u0e3f\u0f71\u0f72\u0f73\u1025\u102eក្"
    "ल\u093fा\u09c7\u09be\u09d7\u0dd9\u0dcf\u0dca\U00011131\U00011127"
    "™℠©℗،؟׳״־।။፡゠\u0e3fʻꞋꞌ\u00ad\u061c\u180e\u2060\u2800ᲐაƆɔꙀꭰᎠ𐐀𝄞\U000e0041"
    "\u1680\u115f\u3164\u2028\ufeff\ufffd\uffff🙂\U0001f468\U00020000\U000e0001\U0010ffff"
)
TEXT = st.text(st.sampled_from(CHARACTERS)) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@st.composite
def texts_with_something_wanted(draw: st.DrawFn) -> tuple[str, WantedWords]:
    """Draw a text and a run of its words, or the beginning of one."""
    text = draw(TEXT)
    line = draw(st.sampled_from(tokenize(text).text.split("\n"))).strip(" ").split(" ")
    first = draw(st.integers(0, len(line) - 1))
    run = line[first : draw(st.integers(first + 1, len(line)))]
    prefix = draw(st.booleans())
    # A query holds whole signs, so that the code of a sign is never cut.
    if prefix and run[-1] and not run[-1].startswith("=symbol:"):
        run[-1] = run[-1][: draw(st.integers(1, len(run[-1])))]
    return text, WantedWords((tuple(run),), is_prefix=prefix)


@settings(max_examples=500, deadline=None)
@given(texts_with_something_wanted())
def test_marks_hold_what_was_wanted(drawn: tuple[str, WantedWords]) -> None:
    text, thing = drawn
    spans = spans_of(text, thing)
    assert bool(spans) == any(thing.spellings[0])
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    for start, end in spans:
        # Signs may be read in another way alone than beside letters, or beside characters that are not ASCII.
        alone = text[start:end]
        lettered = fold(f"é {alone}").text.translate(str.maketrans("$!@", "sia"))
        again = "\n".join(tokenize(piece).text for piece in (alone, f"é {alone}", lettered)).replace(" ", "")
        assert "".join(thing.spellings[0]) in again


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_every_word_of_a_text_can_be_marked(text: str) -> None:
    for word, start, end in tokenize(text).words():
        spans = spans_of(text, WantedWords(((word,),)))
        assert any(first <= start < end <= last for first, last in spans)


@pytest.mark.parametrize(
    "piece", ["a", "a ", "a-", "a'", "$a ", "$", "a$", "!", "&", "é", "e\u0301", "\u0301\u0323", "夜", "กิ"]
)
def test_long_text_takes_time_in_proportion(piece: str) -> None:
    things = [wanted("a*"), wanted("夜"), wanted("ก"), wanted(" ".join("a" * 100)), wanted("a" * 200)]

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        times = []
        for _ in range(5):
            start = process_time()
            spans_of(text, *things)
            times.append(process_time() - start)
        return min(times)

    # Eight times as long; 64 times as slow, were it quadratic.
    assert seconds(8000) < 30 * seconds(1000)


# The server's own words


def words_on_server(connection: Connection, texts: list[str]) -> Iterator[tuple[str, str, set[str]]]:
    """Yield each of *texts*, folded, and its words."""
    query = (
        "SELECT value, folded, audiocatalog_words_v1(folded)"
        " FROM unnest(%s::text[]) AS value, LATERAL (SELECT audiocatalog_fold_v1(value) OFFSET 0) AS made (folded)"
    )
    for at in range(0, len(texts), 50_000):
        for text, folded, words in connection.exec_driver_sql(query, (texts[at : at + 50_000],)):
            yield text, folded, set(re.findall("[^ \n]+", words))


def differences(connection: Connection, texts: list[str]) -> list[tuple[str, str, set[str]]]:
    """Return those of *texts* that the server folds or parts in another way."""
    return [
        (text, folded, words)
        for text, folded, words in words_on_server(connection, texts)
        if fold(text).text != folded or {word for word, _, _ in tokenize(text).words()} != words
    ]


@pytest.fixture
def characters(connection: Connection) -> list[str]:
    """
    Give every assigned character, but for private use, that this Python and the server decompose alike.

    Their versions of Unicode may differ by some years; a character that only one of them knows is left out.
    """
    assigned = [
        letter for letter in map(chr, range(1, 0x110000)) if unicodedata.category(letter) not in {"Cn", "Cs", "Co"}
    ]
    query = "SELECT letter, normalize(letter, NFKD) FROM unnest(%s::text[]) AS letter"
    decomposed = connection.exec_driver_sql(query, (assigned,)).all()
    alike = [letter for letter, parts in decomposed if unicodedata.normalize("NFKD", letter) == parts]
    assert len(assigned) - len(alike) < 300
    return alike


def test_every_character_is_read_as_on_the_server(connection: Connection, characters: list[str]) -> None:
    assert differences(connection, characters) == []
    # Among others, but for most ideographs and syllables, which differ in nothing.
    among = [f"o{letter}K é{letter}'{letter}n" for letter in characters if letter < "㐀" or letter > "豈"]
    assert differences(connection, [" ".join(among[at : at + 10]) for at in range(0, len(among), 10)]) == []


@pytest.mark.parametrize(("count", "longest"), [(5000, 30), (300, 1000)])
def test_random_text_is_read_as_on_the_server(connection: Connection, count: int, longest: int) -> None:
    random = Random(longest)  # noqa: S311
    alphabets = [
        CHARACTERS,
        "abc ",
        "ab'",
        "aB'’ -/&$!",
        "aé\u0301\u0323 '",
        "夜a'!é ",
        "!$.-'é ",
        "e\u0301ก\u0e34",
        "か\u0640\u3099",
        "a\u00ad\u0301か\u2060\u3099\u1100\u115f\u1161\ufeff ",
        "aя夜9$$!@' ",
        "aꞌ׳™।႑။夜 ᲐƆ",
    ]
    texts = ["".join(random.choices(random.choice(alphabets), k=random.randint(0, longest))) for _ in range(count)]
    assert differences(connection, texts) == []


def words_of_each(connection: Connection, texts: list[str]) -> list[str]:
    return list(
        connection.exec_driver_sql(
            "SELECT audiocatalog_words_v1(audiocatalog_fold_v1(value))"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS texts(value, place) ORDER BY place",
            (texts,),
        ).scalars()
    )


def test_a_capital_is_its_small_letter(connection: Connection, characters: list[str]) -> None:
    small = {letter: letter.lower() for letter in characters if len(letter.lower()) == 1 and letter.lower() != letter}
    assert len(small) > 1300
    capitals, letters = words_of_each(connection, list(small)), words_of_each(connection, list(small.values()))
    assert [capital for capital, one, other in zip(small, capitals, letters, strict=True) if one != other] == []
    assert [capital for capital in small if fold(f"é{capital}").text != fold(f"é{small[capital]}").text] == []


def test_signs_part_words_and_letters_do_not(connection: Connection, characters: list[str]) -> None:
    # Characters that decompose are read as what they are made of.
    plain = [letter for letter in characters if letter < "\U00010000" and not unicodedata.decomposition(letter)]
    signs = [letter for letter in plain if unicodedata.category(letter)[0] in "PSZ" and letter not in "&'`"]
    parted = dict(zip(signs, words_of_each(connection, [f"a{sign}b" for sign in signs]), strict=True))
    assert "".join(sign for sign in signs if parted[sign].split("\n")[0].split() != ["a", "b"]) == "՚׳״‘’‛′"
    # Numbers in circles are symbols; characters of scripts without spaces have words of their own.
    letters = [
        letter
        for letter in plain
        if unicodedata.category(letter)[0] in "LNM"
        and not ("\u2460" <= letter <= "\u2793" or len(tokenize(letter).text) < 3)
    ]
    joined = words_of_each(connection, [f"a{letter}b" for letter in letters])
    apostrophes = [letter for letter in letters if fold(f"é{letter}").text == "e'"]
    assert "".join(apostrophes) == "ʹʺʻʼʽʾʿˮꞋꞌ"
    lost = [
        letter
        for letter, words in zip(letters, joined, strict=True)
        if letter not in apostrophes and words.split("\n")[0].replace(" ", "") != fold(f"éa{letter}b").text[1:]
    ]
    assert lost == []


def test_what_cannot_be_seen_vanishes_unless_it_is_a_blank(connection: Connection, characters: list[str]) -> None:
    invisible = re.findall(f"[{INVISIBLE}]", "".join(characters))
    words = words_of_each(connection, [f"é{letter}a" for letter in invisible])
    blank = re.compile(f"[{BLANKS}]")
    for letter, found in zip(invisible, words, strict=True):
        is_blank = blank.fullmatch(letter) or unicodedata.category(letter) == "Zs"
        assert found.split("\n")[0] == ("e a" if is_blank else "ea"), ascii(letter)


def test_blanks_are_separators() -> None:
    assert re.findall(f"[{BLANKS}]", "".join(map(chr, range(0x10000)))) == re.findall(
        f"(?=[{SEPARATORS}])[{BLANKS}]", "".join(map(chr, range(0x10000)))
    )


def test_composing_vowels_are_marks_or_known() -> None:
    # What composes with a character before it must be folded together with it.
    for letter in map(chr, range(0x110000)):
        parts = unicodedata.decomposition(letter).split(" ")
        if len(parts) == 2 and not parts[0].startswith("<"):
            second = chr(int(parts[1], 16))
            if unicodedata.normalize("NFC", f"{chr(int(parts[0], 16))}{second}") == letter:
                assert unicodedata.category(second).startswith("M") or second == "\U00016d67"
