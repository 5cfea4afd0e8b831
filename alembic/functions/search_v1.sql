-- How text becomes words, for stored tracks and for queries alike. Version 1.
--
-- Every function is immutable and depends on no setting of a session: what it calls is bound when it is created (BEGIN
-- ATOMIC) or named with its schema, and patterns are written as E'' strings. So it survives pg_dump and can feed a stored
-- generated column. What runs for every row is in PL/pgSQL, whose plans are kept: the SQL functions around it are inlined
-- into every statement anew.
-- A released version never changes: a successor gets a new name and is introduced beside it.
--
-- Nothing follows the locale of the database: ASCII is lowered under COLLATE "C", other letters by a table, characters
-- are told apart by code points, and vectors and queries are written out, for the text parser and the dictionaries of
-- PostgreSQL take their letters and cases from the locale.
-- In this file, a blank line ends a statement.

-- Fold case, accents, ligatures, full width and typographic punctuation.
CREATE FUNCTION audiocatalog_fold_v1(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  -- One byte for each character is ASCII: nothing but case to fold.
  IF pg_catalog.octet_length(value) <> pg_catalog.char_length(value) THEN
    -- Decompose, drop the marks of Latin, Greek, Cyrillic, Hebrew and Arabic, and compose again, which puts Hangul
    -- syllables and voiced kana back together.
    value := normalize(
      pg_catalog.regexp_replace(
        normalize(value, NFKD) COLLATE "C",
        E'[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]',
        '', 'g'),
      NFKC);
    value := pg_catalog.translate(value,
      '’‘‛ʼ´`′‐‑‒–—―−'
      'øØłŁđĐðÐħĦıŋŊŧŦəƏȺⱥȾⱦςёєЄґҐ'
      'ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ'
      'АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЅІЈЉЊЋЏҒҖҚҢҮҰҲҺӘӨ'
      'ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ',
      '''''''''''''''-------'
      'oollddddhhinnttəəaattσееегг'
      'αβγδεζηθικλμνξοπρστυφχψω'
      'абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљњћџғҗқңүұҳһәө'
      'աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ');
    value := pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
      value, 'ß', 'ss'), 'ẞ', 'ss'), 'æ', 'ae'), 'Æ', 'ae'), 'œ', 'oe'), 'Œ', 'oe'), 'þ', 'th'), 'Þ', 'th');
  END IF;
  RETURN pg_catalog.replace(pg_catalog.lower(value COLLATE "C"), '&', ' and ');
END
$$;

-- Return the words of folded text on two lines. The first parts them by spaces: apostrophes vanish, other punctuation
-- parts, and the characters of scripts that are written without spaces stand alone, so that a phrase of them is a
-- substring. The second spells words that hold punctuation in one piece, plain (acdc) and with $ ! @ read as letters
-- (P!nk is pink), and words that are nothing but punctuation (!!!) by their code. Words of more than 200 characters are
-- cut into pieces, for a vector holds none beyond 2,046 bytes.
CREATE FUNCTION audiocatalog_words_v1(folded text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
  separators constant text :=
    E'[\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u00d7\u00f7\u2000-\u2bff\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe00-\ufe6f\ufff0-\uffff\U0001f000-\U0001faff]+';
  alone constant text :=
    E'([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])';
  parted text := pg_catalog.replace(folded, '''', '');
  joined text := '';
  word text;
  piece text;
BEGIN
  IF folded COLLATE "C" ~ '^[0-9a-z ]*$' AND pg_catalog.char_length(folded) <= 200 THEN
    RETURN folded;
  END IF;
  IF pg_catalog.octet_length(parted) <> pg_catalog.char_length(parted) THEN
    parted := pg_catalog.regexp_replace(parted COLLATE "C", alone, E' \\1 ', 'g');
  END IF;
  parted := pg_catalog.regexp_replace(parted COLLATE "C", separators, ' ', 'g');
  IF folded COLLATE "C" ~ separators THEN
    FOREACH word IN ARRAY pg_catalog.regexp_split_to_array(folded COLLATE "C", E'[ \u0009-\u000d\u00a0\u3000]+') LOOP
      piece := pg_catalog.regexp_replace(word COLLATE "C", separators, '', 'g');
      IF piece = '' AND word <> '' THEN
        joined := joined || ' symbol' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(word, 50), 'UTF8'), 'hex');
      ELSIF pg_catalog.char_length(piece) > 200 THEN
        CONTINUE;
      ELSIF word COLLATE "C" ~ '[$!@]' THEN
        joined := joined || ' ' || piece || ' '
          || pg_catalog.regexp_replace(pg_catalog.translate(word, '$!@', 'sia') COLLATE "C", separators, '', 'g');
      -- Punctuation at the ends of a word parts nothing.
      ELSIF pg_catalog.btrim(pg_catalog.regexp_replace(word COLLATE "C", separators, ' ', 'g')) <> piece THEN
        joined := joined || ' ' || piece;
      END IF;
    END LOOP;
  END IF;
  IF pg_catalog.char_length(parted) > 200 THEN
    parted := pg_catalog.regexp_replace(parted COLLATE "C", '([^ ]{200})', E'\\1 ', 'g');
  END IF;
  RETURN parted || E'\n' || pg_catalog.ltrim(joined);
END
$$;

-- Number words and return them as a vector.
CREATE FUNCTION audiocatalog_lexemes_v1(words text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
  word text;
  place integer := 0;
  written text := '';
BEGIN
  FOREACH word IN ARRAY pg_catalog.string_to_array(pg_catalog.translate(words, E'\n', ' '), ' ') LOOP
    IF word <> '' THEN
      place := place + 1;
      -- No word holds a quote or a backslash: both are punctuation.
      written := written || '''' || word || ''':' || place || ' ';
    END IF;
  END LOOP;
  RETURN written::tsvector;
END
$$;

-- Weigh the words of a track: title A, artist B, album C, genre D.
CREATE FUNCTION audiocatalog_search_vector_v1(title text, artist text, album text, genre text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT coalesce(setweight(audiocatalog_lexemes_v1(audiocatalog_words_v1(audiocatalog_fold_v1(title))), 'A'), ''::tsvector)
      || coalesce(setweight(audiocatalog_lexemes_v1(audiocatalog_words_v1(audiocatalog_fold_v1(artist))), 'B'), ''::tsvector)
      || coalesce(setweight(audiocatalog_lexemes_v1(audiocatalog_words_v1(audiocatalog_fold_v1(album))), 'C'), ''::tsvector)
      || coalesce(setweight(audiocatalog_lexemes_v1(audiocatalog_words_v1(audiocatalog_fold_v1(genre))), 'D'), ''::tsvector);
END;

-- Read what somebody typed: every term must be there, as a phrase of its pieces or in one of its joined spellings. A term
-- that is repeated counts once.
CREATE FUNCTION audiocatalog_search_query_v1(query text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT coalesce(string_agg(DISTINCT '(' || wanted || ')', ' & ')::tsquery, ''::tsquery)
  FROM (
    SELECT place, string_agg('''' || replace(phrase, ' ', ''' <-> ''') || '''', ' | ') AS wanted
    FROM regexp_split_to_table(audiocatalog_fold_v1(query) COLLATE "C", E'[ \u0009-\u000d\u00a0\u3000]+')
        WITH ORDINALITY AS terms(term, place),
      LATERAL audiocatalog_words_v1(term) AS words,
      LATERAL unnest(split_part(words, E'\n', 1) || string_to_array(split_part(words, E'\n', 2), ' ')) AS spelling,
      LATERAL btrim(regexp_replace(spelling COLLATE "C", ' +', ' ', 'g')) AS phrase
    WHERE phrase <> ''
    GROUP BY place
  ) AS read;
END;
