-- How text becomes words, for stored tracks and for queries alike. Version 1.
--
-- Every function is immutable and refers only to built-ins, bound when it is created (BEGIN ATOMIC), so that it works
-- under any search_path, survives pg_dump, and can feed a stored generated column. A released version never changes:
-- a successor gets a new name and is introduced beside it.
--
-- Nothing follows the locale of the database: ASCII is lowered under COLLATE "C", other letters by a table, and
-- characters are told apart by code points.

-- Fold case, accents, ligatures, full width and typographic punctuation.
CREATE FUNCTION audiocatalog_fold_v1(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT replace(
    CASE
      -- One byte for each character is ASCII: nothing but case to fold.
      WHEN octet_length(value) = char_length(value) THEN lower(value COLLATE "C")
      ELSE lower(
        translate(
          replace(replace(replace(replace(replace(replace(replace(replace(
            -- Decompose, drop the marks of Latin, Greek, Cyrillic, Hebrew and Arabic, and compose again,
            -- which puts Hangul syllables and voiced kana back together.
            normalize(
              regexp_replace(
                normalize(value, NFKD) COLLATE "C",
                '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]',
                '', 'g'),
              NFKC),
            'ß', 'ss'), 'ẞ', 'ss'), 'æ', 'ae'), 'Æ', 'ae'), 'œ', 'oe'), 'Œ', 'oe'), 'þ', 'th'), 'Þ', 'th'),
          '’‘‛ʼ´`′‐‑‒–—―−'
          'øØłŁđĐðÐħĦıŋŊŧŦəƏςёєЄґҐ'
          'ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ'
          'АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЅІЈЉЊЋЏҒҖҚҢҮҰҲҺӘӨ'
          'ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ',
          '''''''''''''''-------'
          'oollddddhhinnttəəσееегг'
          'αβγδεζηθικλμνξοπρστυφχψω'
          'абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљњћџғҗқңүұҳһәө'
          'աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ')
        COLLATE "C")
    END,
    '&', ' and ');
END;

-- Turn folded text into words parted by spaces. Apostrophes vanish, other punctuation parts, and the characters of
-- scripts that are written without spaces stand alone, so that a phrase of them is a substring.
CREATE FUNCTION audiocatalog_split_v1(folded text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT regexp_replace(
    CASE
      WHEN octet_length(folded) = char_length(folded) THEN replace(folded, '''', '')
      ELSE regexp_replace(
        replace(folded, '''', '') COLLATE "C",
        '([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])',
        ' \1 ', 'g')
    END COLLATE "C",
    '[\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u00d7\u00f7\u2000-\u2bff\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe00-\ufe6f\ufff0-\uffff\U0001f000-\U0001faff]+',
    ' ', 'g');
END;

-- Spell words that hold punctuation in one piece, plain (acdc) and with $ ! @ read as letters (P!nk: pink), and words
-- that are nothing but punctuation (!!!) by their code: letters and digits are all that a text parser keeps.
CREATE FUNCTION audiocatalog_join_v1(folded text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT string_agg(
    CASE
      WHEN btrim(split) = '' THEN 'symbol' || encode(convert_to(left(word, 50), 'UTF8'), 'hex')
      WHEN word COLLATE "C" ~ '[$!@]' THEN replace(split, ' ', '') || ' '
        || replace(audiocatalog_split_v1(translate(word, '$!@', 'sia')), ' ', '')
      -- Characters that stand alone for want of spaces make no word in one piece.
      WHEN strpos(btrim(split), ' ') > 0 AND replace(split, ' ', '') <> word THEN replace(split, ' ', '')
    END, ' ')
  FROM regexp_split_to_table(folded COLLATE "C", '[ \u0009-\u000d\u00a0\u3000]+') AS word,
    LATERAL audiocatalog_split_v1(word) AS split
  WHERE word <> '';
END;

-- Return all words of folded text: split, then joined where there is punctuation. Plain text takes the short way.
CREATE FUNCTION audiocatalog_words_v1(folded text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE
    WHEN folded COLLATE "C" ~ '^[0-9a-z ]*$' THEN folded
    ELSE concat_ws(' ', audiocatalog_split_v1(folded), audiocatalog_join_v1(folded))
  END;
END;

-- Weigh the words of a track: title A, artist B, album C, genre D. Joined spellings follow, out of the way of phrases.
CREATE FUNCTION audiocatalog_search_vector_v1(title text, artist text, album text, genre text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT setweight(to_tsvector('pg_catalog.simple'::regconfig, coalesce(audiocatalog_words_v1(audiocatalog_fold_v1(title)), '')), 'A')
      || setweight(to_tsvector('pg_catalog.simple'::regconfig, coalesce(audiocatalog_words_v1(audiocatalog_fold_v1(artist)), '')), 'B')
      || setweight(to_tsvector('pg_catalog.simple'::regconfig, coalesce(audiocatalog_words_v1(audiocatalog_fold_v1(album)), '')), 'C')
      || setweight(to_tsvector('pg_catalog.simple'::regconfig, coalesce(audiocatalog_words_v1(audiocatalog_fold_v1(genre)), '')), 'D');
END;

-- Read what somebody typed: every term must be there, as a phrase of its pieces or in one of its joined spellings.
CREATE FUNCTION audiocatalog_search_query_v1(query text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT coalesce(string_agg('(' || wanted::text || ')', ' & ')::tsquery, ''::tsquery)
  FROM (
    SELECT phraseto_tsquery('pg_catalog.simple'::regconfig, audiocatalog_split_v1(term))
      || coalesce(replace(nullif(btrim(audiocatalog_join_v1(term)), ''), ' ', ' | ')::tsquery, ''::tsquery) AS wanted
    FROM regexp_split_to_table(audiocatalog_fold_v1(query) COLLATE "C", '[ \u0009-\u000d\u00a0\u3000]+') AS term
  ) AS terms
  WHERE numnode(wanted) > 0;
END;
