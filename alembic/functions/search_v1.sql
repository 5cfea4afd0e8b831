-- The functions that turn text into words and names, for tracks and for queries. Version 1.
--
-- Every function is immutable and depends on no setting of a session, so that it survives pg_dump and can be used in a
-- stored generated column: called functions are bound at creation (BEGIN ATOMIC) or qualified with their schema, and
-- patterns are E'' strings. The functions that run for every row are in PL/pgSQL, because PostgreSQL caches their plans
-- and inlines SQL functions into every statement again.
-- A released version never changes. Its successor gets a new name and exists beside it.
--
-- The locale of the database has no influence: ASCII is lowered under COLLATE "C", other letters by a table, characters
-- are classified by code points, and vectors and queries are written as text, because the text parser and the
-- dictionaries of PostgreSQL depend on the locale.
-- In this file, a blank line ends a statement.

-- Fold case, accents, ligatures, full width and typographic punctuation, and drop invisible characters except blanks.
CREATE FUNCTION audiocatalog_fold_v1(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  -- Text with one byte for each character is ASCII, which needs only the last statement of this function.
  IF pg_catalog.octet_length(value) <> pg_catalog.char_length(value) THEN
    -- NFKD would decompose a lone accent to a space and trade marks to letters, so these signs are replaced before.
    -- Normalisation of consecutive marks takes quadratic time, so a run of them is cut after 30.
    IF pg_catalog.char_length(value) > 100 THEN
      value := pg_catalog.regexp_replace(value COLLATE "C",
        E'[^\u0001-\u02ff\u0370-\u0482\u048a-\u0590\u1100-\u11ff\u1e00-\u20cf\u2100-\u2cee\u2e00-\u3029\u3030-\u3098'
        '\u309b-\ua66e\uac00-\ufb1d\ufb1f-\ufe1f\ufe30-\uff9d\uffa0-\uffff]{30}',
        E'\\&\ufdd0', 'g');
    END IF;
    -- Decompose, drop marks of Latin, Greek, Cyrillic, Hebrew and Arabic and invisible characters, and compose again,
    -- so that Hangul syllables and voiced kana stay one character.
    value := pg_catalog.replace(normalize(
      pg_catalog.regexp_replace(
        normalize(pg_catalog.translate(value, '´™℠🅪🅫🅬', '''®®®®®'), NFKD) COLLATE "C",
        E'[\u00ad\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u061c'
        '\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08ca-\u08e1'
        '\u08e3-\u08ff\u115f\u1160\u17b4\u17b5\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200f'
        '\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\ufeff\ufff0-\ufffb'
        '\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]',
        '', 'g'),
      NFKC), E'\ufdd0', '');
    -- translate() scans its table for every character, so each call is guarded by a check for its letters.
    IF value COLLATE "C" ~
      E'[\u00c6-\u02ee\u055a\u05f3\u05f4\u1e9e\u2010-\u2032\u2212\u2c65\u2c66\ua78b\ua78c]'
    THEN
      value := pg_catalog.translate(value,
        '’‘‛ʼʹʺʻʽʾʿˮ′ꞌꞋ՚׳״‐‑‒–—―−'
        'øØłŁđĐðÐħĦıŋŊŧŦəƏȺⱥȾⱦ',
        '''''''''''''''''''''''''''''''''''-------'
        'oollddddhhinnttəəaatt');
      IF value COLLATE "C" ~ '[ßẞæÆœŒþÞ]' THEN
        value := pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
          pg_catalog.translate(value, 'ẞÆŒÞ', 'ßæœþ'), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
      END IF;
    END IF;
    IF value COLLATE "C" ~ E'[\u0391-\u0587]' THEN
      value := pg_catalog.translate(value,
        'ςєЄґҐ'
        'ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ'
        'АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЅІЈЉЊЋЏҒҖҚҢҮҰҲҺӘӨ'
        'ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ',
        'σеегг'
        'αβγδεζηθικλμνξοπρστυφχψω'
        'абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљњћџғҗқңүұҳһәө'
        'աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ');
    END IF;
    -- These are the rarer capitals of Latin, Greek and Cyrillic.
    IF value COLLATE "C" ~
      E'[\u0181-\u01bc\u01e4-\u01f7\u021c-\u0224\u023b-\u024e\u0370-\u037f\u03cf-\u03ff\u0460-\u0480'
      '\u04fa-\u052e\u1efa-\u1efe\u2132\u2183\u2c60-\u2c7f\ua640-\ua66c\ua680-\ua69a\ua722-\ua7dc\ua7f5'
      'ҊҌҎҔҘҜҞҠҤҦҨҪҬҴҶҸҼҾӀӃӅӇӉӋӍӔӠӶ]'
    THEN
      value := pg_catalog.translate(value,
        'ƁƂƄƆƇƉƊƋƎƐƑƓƔƖƗƘƜƝƟƢƤƦƧƩƬƮƱƲƳƵƷƸƼǤǮǶǷȜȠȢȤȻȽɁɃɄɅɆɈɊɌɎͰͲͶͿϏϘϚϜϞϠϢϤϦϨϪϬϮϷϺϽϾϿѠѢѤѦѨѪѬѮѰѲѴѶѸѺѼѾҀҊҌҎҔҘҜҞҠҤ'
        'ҦҨҪҬҴҶҸҼҾӀӃӅӇӉӋӍӔӠӶӺӼӾԀԂԄԆԈԊԌԎԐԒԔԖԘԚԜԞԠԢԤԦԨԪԬԮỺỼỾℲↃⱠⱢⱣⱤⱧⱩⱫⱭⱮⱯⱰⱲⱵⱾⱿꙀꙂꙄꙆꙈꙊꙌꙎꙐꙒꙔꙖꙘꙚꙜꙞꙠꙢꙤꙦꙨꙪꙬꚀꚂꚄꚆꚈꚊꚌꚎꚐꚒꚔ'
        'ꚖꚘꚚꜢꜤꜦꜨꜪꜬꜮꜲꜴꜶꜸꜺꜼꜾꝀꝂꝄꝆꝈꝊꝌꝎꝐꝒꝔꝖꝘꝚꝜꝞꝠꝢꝤꝦꝨꝪꝬꝮꝹꝻꝽꝾꞀꞂꞄꞆꞍꞐꞒꞖꞘꞚꞜꞞꞠꞢꞤꞦꞨꞪꞫꞬꞭꞮꞰꞱꞲꞳꞴꞶꞸꞺꞼꞾꟀꟂꟄꟅꟆꟇꟉꟋꟌ꟎Ꟑ꟒꟔ꟖꟘꟚꟜꟵ',
        'ɓƃƅɔƈɖɗƌǝɛƒɠɣɩɨƙɯɲɵƣƥʀƨʃƭʈʊʋƴƶʒƹƽǥʒƕƿȝƞȣȥȼƚɂƀʉʌɇɉɋɍɏͱͳͷϳϗϙϛϝϟϡϣϥϧϩϫϭϯϸϻͻͼͽѡѣѥѧѩѫѭѯѱѳѵѵѹѻѽѿҁҋҍҏҕҙҝҟҡҥ'
        'ҧҩҫҭҵҷҹҽҿӏӄӆӈӊӌӎӕӡӷӻӽӿԁԃԅԇԉԋԍԏԑԓԕԗԙԛԝԟԡԣԥԧԩԫԭԯỻỽỿⅎↄⱡɫᵽɽⱨⱪⱬɑɱɐɒⱳⱶȿɀꙁꙃꙅꙇꙉꙋꙍꙏꙑꙓꙕꙗꙙꙛꙝꙟꙡꙣꙥꙧꙩꙫꙭꚁꚃꚅꚇꚉꚋꚍꚏꚑꚓꚕ'
        'ꚗꚙꚛꜣꜥꜧꜩꜫꜭꜯꜳꜵꜷꜹꜻꜽꜿꝁꝃꝅꝇꝉꝋꝍꝏꝑꝓꝕꝗꝙꝛꝝꝟꝡꝣꝥꝧꝩꝫꝭꝯꝺꝼᵹꝿꞁꞃꞅꞇɥꞑꞓꞗꞙꞛꞝꞟꞡꞣꞥꞧꞩɦɜɡɬɪʞʇʝꭓꞵꞷꞹꞻꞽꞿꟁꟃꞔʂᶎꟈꟊɤꟍ꟏ꟑꟓꟕꟗꟙꟛƛꟶ');
    END IF;
    -- These are the capitals of Georgian, Cherokee, Glagolitic, Coptic and the scripts beyond the first plane.
    IF value COLLATE "C" ~
      E'[\u10a0-\u10cd\u13a0-\u13f5\u1c89-\u1cbf\u2c00-\u2c2f\u2c80-\u2cf2\U00010400-\U00010427'
      '\U000104b0-\U000104d3\U00010570-\U00010595\U00010c80-\U00010cb2\U00010d50-\U00010d65'
      '\U000118a0-\U000118bf\U00016e40-\U00016e5f\U0001e900-\U0001e921]'
    THEN
      value := pg_catalog.translate(value,
        'ႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႱႲႳႴႵႶႷႸႹႺႻႼႽႾႿჀჁჂჃჄჅჇჍᎠᎡᎢᎣᎤᎥᎦᎧᎨᎩᎪᎫᎬᎭᎮᎯᎰᎱᎲᎳᎴᎵᎶᎷᎸᎹᎺᎻᎼᎽᎾᎿᏀᏁᏂᏃᏄᏅᏆᏇᏈᏉᏊᏋᏌᏍᏎᏏᏐᏑᏒᏓᏔᏕᏖᏗᏘᏙᏚᏛ'
        'ᏜᏝᏞᏟᏠᏡᏢᏣᏤᏥᏦᏧᏨᏩᏪᏫᏬᏭᏮᏯᏰᏱᏲᏳᏴᏵᲉᲐᲑᲒᲓᲔᲕᲖᲗᲘᲙᲚᲛᲜᲝᲞᲟᲠᲡᲢᲣᲤᲥᲦᲧᲨᲩᲪᲫᲬᲭᲮᲯᲰᲱᲲᲳᲴᲵᲶᲷᲸᲹᲺᲽᲾᲿⰀⰁⰂⰃⰄⰅⰆⰇⰈⰉⰊⰋⰌⰍⰎⰏⰐⰑⰒⰓⰔⰕⰖⰗⰘⰙⰚ'
        'ⰛⰜⰝⰞⰟⰠⰡⰢⰣⰤⰥⰦⰧⰨⰩⰪⰫⰬⰭⰮⰯⲀⲂⲄⲆⲈⲊⲌⲎⲐⲒⲔⲖⲘⲚⲜⲞⲠⲢⲤⲦⲨⲪⲬⲮⲰⲲⲴⲶⲸⲺⲼⲾⳀⳂⳄⳆⳈⳊⳌⳎⳐⳒⳔⳖⳘⳚⳜⳞⳠⳢⳫⳭⳲ𐐀𐐁𐐂𐐃𐐄𐐅𐐆𐐇𐐈𐐉𐐊𐐋𐐌𐐍𐐎𐐏𐐐𐐑𐐒𐐓𐐔𐐕𐐖𐐗𐐘𐐙'
        '𐐚𐐛𐐜𐐝𐐞𐐟𐐠𐐡𐐢𐐣𐐤𐐥𐐦𐐧𐒰𐒱𐒲𐒳𐒴𐒵𐒶𐒷𐒸𐒹𐒺𐒻𐒼𐒽𐒾𐒿𐓀𐓁𐓂𐓃𐓄𐓅𐓆𐓇𐓈𐓉𐓊𐓋𐓌𐓍𐓎𐓏𐓐𐓑𐓒𐓓𐕰𐕱𐕲𐕳𐕴𐕵𐕶𐕷𐕸𐕹𐕺𐕼𐕽𐕾𐕿𐖀𐖁𐖂𐖃𐖄𐖅𐖆𐖇𐖈𐖉𐖊𐖌𐖍𐖎𐖏𐖐𐖑𐖒𐖔𐖕𐲀𐲁𐲂𐲃𐲄𐲅𐲆𐲇𐲈𐲉𐲊𐲋𐲌𐲍𐲎'
        '𐲏𐲐𐲑𐲒𐲓𐲔𐲕𐲖𐲗𐲘𐲙𐲚𐲛𐲜𐲝𐲞𐲟𐲠𐲡𐲢𐲣𐲤𐲥𐲦𐲧𐲨𐲩𐲪𐲫𐲬𐲭𐲮𐲯𐲰𐲱𐲲𐵐𐵑𐵒𐵓𐵔𐵕𐵖𐵗𐵘𐵙𐵚𐵛𐵜𐵝𐵞𐵟𐵠𐵡𐵢𐵣𐵤𐵥𑢠𑢡𑢢𑢣𑢤𑢥𑢦𑢧𑢨𑢩𑢪𑢫𑢬𑢭𑢮𑢯𑢰𑢱𑢲𑢳𑢴𑢵𑢶𑢷𑢸𑢹𑢺𑢻𑢼𑢽𑢾𑢿𖹀𖹁𖹂𖹃𖹄𖹅𖹆𖹇𖹈𖹉'
        '𖹊𖹋𖹌𖹍𖹎𖹏𖹐𖹑𖹒𖹓𖹔𖹕𖹖𖹗𖹘𖹙𖹚𖹛𖹜𖹝𖹞𖹟𞤀𞤁𞤂𞤃𞤄𞤅𞤆𞤇𞤈𞤉𞤊𞤋𞤌𞤍𞤎𞤏𞤐𞤑𞤒𞤓𞤔𞤕𞤖𞤗𞤘𞤙𞤚𞤛𞤜𞤝𞤞𞤟𞤠𞤡',
        'ⴀⴁⴂⴃⴄⴅⴆⴇⴈⴉⴊⴋⴌⴍⴎⴏⴐⴑⴒⴓⴔⴕⴖⴗⴘⴙⴚⴛⴜⴝⴞⴟⴠⴡⴢⴣⴤⴥⴧⴭꭰꭱꭲꭳꭴꭵꭶꭷꭸꭹꭺꭻꭼꭽꭾꭿꮀꮁꮂꮃꮄꮅꮆꮇꮈꮉꮊꮋꮌꮍꮎꮏꮐꮑꮒꮓꮔꮕꮖꮗꮘꮙꮚꮛꮜꮝꮞꮟꮠꮡꮢꮣꮤꮥꮦꮧꮨꮩꮪꮫ'
        'ꮬꮭꮮꮯꮰꮱꮲꮳꮴꮵꮶꮷꮸꮹꮺꮻꮼꮽꮾꮿᏸᏹᏺᏻᏼᏽᲊაბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰჱჲჳჴჵჶჷჸჹჺჽჾჿⰰⰱⰲⰳⰴⰵⰶⰷⰸⰹⰺⰻⰼⰽⰾⰿⱀⱁⱂⱃⱄⱅⱆⱇⱈⱉⱊ'
        'ⱋⱌⱍⱎⱏⱐⱑⱒⱓⱔⱕⱖⱗⱘⱙⱚⱛⱜⱝⱞⱟⲁⲃⲅⲇⲉⲋⲍⲏⲑⲓⲕⲗⲙⲛⲝⲟⲡⲣⲥⲧⲩⲫⲭⲯⲱⲳⲵⲷⲹⲻⲽⲿⳁⳃⳅⳇⳉⳋⳍⳏⳑⳓⳕⳗⳙⳛⳝⳟⳡⳣⳬⳮⳳ𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷𐐸𐐹𐐺𐐻𐐼𐐽𐐾𐐿𐑀𐑁'
        '𐑂𐑃𐑄𐑅𐑆𐑇𐑈𐑉𐑊𐑋𐑌𐑍𐑎𐑏𐓘𐓙𐓚𐓛𐓜𐓝𐓞𐓟𐓠𐓡𐓢𐓣𐓤𐓥𐓦𐓧𐓨𐓩𐓪𐓫𐓬𐓭𐓮𐓯𐓰𐓱𐓲𐓳𐓴𐓵𐓶𐓷𐓸𐓹𐓺𐓻𐖗𐖘𐖙𐖚𐖛𐖜𐖝𐖞𐖟𐖠𐖡𐖣𐖤𐖥𐖦𐖧𐖨𐖩𐖪𐖫𐖬𐖭𐖮𐖯𐖰𐖱𐖳𐖴𐖵𐖶𐖷𐖸𐖹𐖻𐖼𐳀𐳁𐳂𐳃𐳄𐳅𐳆𐳇𐳈𐳉𐳊𐳋𐳌𐳍𐳎'
        '𐳏𐳐𐳑𐳒𐳓𐳔𐳕𐳖𐳗𐳘𐳙𐳚𐳛𐳜𐳝𐳞𐳟𐳠𐳡𐳢𐳣𐳤𐳥𐳦𐳧𐳨𐳩𐳪𐳫𐳬𐳭𐳮𐳯𐳰𐳱𐳲𐵰𐵱𐵲𐵳𐵴𐵵𐵶𐵷𐵸𐵹𐵺𐵻𐵼𐵽𐵾𐵿𐶀𐶁𐶂𐶃𐶄𐶅𑣀𑣁𑣂𑣃𑣄𑣅𑣆𑣇𑣈𑣉𑣊𑣋𑣌𑣍𑣎𑣏𑣐𑣑𑣒𑣓𑣔𑣕𑣖𑣗𑣘𑣙𑣚𑣛𑣜𑣝𑣞𑣟𖹠𖹡𖹢𖹣𖹤𖹥𖹦𖹧𖹨𖹩'
        '𖹪𖹫𖹬𖹭𖹮𖹯𖹰𖹱𖹲𖹳𖹴𖹵𖹶𖹷𖹸𖹹𖹺𖹻𖹼𖹽𖹾𖹿𞤢𞤣𞤤𞤥𞤦𞤧𞤨𞤩𞤪𞤫𞤬𞤭𞤮𞤯𞤰𞤱𞤲𞤳𞤴𞤵𞤶𞤷𞤸𞤹𞤺𞤻𞤼𞤽𞤾𞤿𞥀𞥁𞥂𞥃');
    END IF;
  END IF;
  RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.lower(value COLLATE "C"), '`', ''''), '&', ' and ');
END
$$;

-- Return the words of folded text, separated by spaces, on up to three lines:
--
-- 1. All words. Apostrophes are dropped and other punctuation separates words. In scripts without spaces, each character
--    is a word, so that a phrase of them is a substring.
-- 2. Words with punctuation, joined: plain (acdc), and with $ ! @ as letters (P!nk is pink). A word of punctuation alone
--    (!!!) is =symbol: and its bytes in hexadecimal; no typed word contains =.
-- 3. Words with apostrophes, split there (rock n roll).
--
-- Words of more than 200 characters are cut into pieces, because a word of a vector has at most 2,046 bytes.
CREATE FUNCTION audiocatalog_words_v1(folded text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  IF folded COLLATE "C" ~ '^[0-9a-z ]*$' AND pg_catalog.char_length(folded) <= 200 THEN
    RETURN folded;
  END IF;
  DECLARE
    signs constant text := E'{separators_v1}';
    separators constant text := '[' || signs || ']+';
    letter constant text := '[^' || signs || ']';
    alone constant text := E'([{alone_v1}])';
    ascii constant boolean := pg_catalog.octet_length(folded) = pg_catalog.char_length(folded);
    parted text := pg_catalog.regexp_replace(pg_catalog.replace(folded, '''', '') COLLATE "C", separators, ' ', 'g');
    joined text := '';
    pieces text := '';
    word text;
    piece text;
    closed text;
    apart text;
  BEGIN
    FOREACH word IN ARRAY pg_catalog.regexp_split_to_array(
      folded COLLATE "C", E'[{blanks_v1}]+')
    LOOP
      piece := pg_catalog.regexp_replace(word COLLATE "C", separators, '', 'g');
      IF piece = word OR pg_catalog.char_length(piece) > 200 THEN
        CONTINUE;
      ELSIF piece = '' THEN
        -- Brackets and quotes around a sign are dropped, unless the sign consists only of these.
        joined := joined || (' =symbol:' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(
          coalesce(nullif(pg_catalog.btrim(word, '()[]{}"'), ''), word), 50), 'UTF8'), 'hex'));
        CONTINUE;
      END IF;
      -- Punctuation at the ends of a word separates nothing, and apostrophes are dropped.
      closed := pg_catalog.btrim(
        pg_catalog.regexp_replace(pg_catalog.replace(word, '''', '') COLLATE "C", separators, ' ', 'g'));
      IF closed <> piece THEN
        joined := joined || (' ' || piece);
      END IF;
      IF pg_catalog.strpos(word, '''') > 0 THEN
        apart := pg_catalog.btrim(pg_catalog.regexp_replace(word COLLATE "C", separators, ' ', 'g'));
        IF apart <> closed THEN
          pieces := pieces || (' ' || apart);
        END IF;
      END IF;
      IF word COLLATE "C" ~ '[$!@]' THEN
        IF pg_catalog.strpos(word, '$') > 0 THEN
          -- A dollar without a letter or another dollar beside it stays a sign, which is dropped.
          word := pg_catalog.replace(pg_catalog.regexp_replace(word COLLATE "C", pg_catalog.replace(
            '(?<![^-])[$]+(?![^-])', '-', pg_catalog.replace(signs, E'\u0001-\u002f', E'\u0001-\u0023\u0025-\u002f')
          ), ' ', 'g'), '$', 's');
        END IF;
        IF pg_catalog.strpos(word, '!') > 0 THEN
          word := pg_catalog.regexp_replace(word COLLATE "C", '(?<=' || letter || ')!(?=' || letter || ')', 'i', 'g');
        END IF;
        IF pg_catalog.strpos(word, '@') > 0 THEN
          word := pg_catalog.regexp_replace(word COLLATE "C", '(?<=' || letter || ')@(?=' || letter || ')', 'a', 'g');
        END IF;
        word := pg_catalog.regexp_replace(word COLLATE "C", separators, '', 'g');
        IF word <> piece THEN
          joined := joined || (' ' || word);
        END IF;
      END IF;
    END LOOP;
    IF NOT ascii THEN
      parted := pg_catalog.regexp_replace(parted COLLATE "C", alone, E' \\1 ', 'g');
      pieces := pg_catalog.regexp_replace(pieces COLLATE "C", alone, E' \\1 ', 'g');
    END IF;
    IF pg_catalog.char_length(parted) > 200 THEN
      parted := pg_catalog.regexp_replace(parted COLLATE "C", '([^ ]{200})', E'\\1 ', 'g');
    END IF;
    RETURN parted || E'\n' || pg_catalog.ltrim(joined) || E'\n' || pg_catalog.ltrim(pieces);
  END;
END
$$;

-- Return folded text as a name, for comparison as a whole: its first 200 characters without spaces and punctuation. AC/DC,
-- ac dc and acdc are one name. $ beside a letter or digit (Ke$ha) and ! @ between two (P!nk, M@tt) are read as letters.
-- Text of punctuation alone keeps its punctuation.
CREATE FUNCTION audiocatalog_name_v1(folded text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  IF folded COLLATE "C" ~ '^[0-9a-z ]*$' THEN
    RETURN pg_catalog.left(pg_catalog.replace(folded, ' ', ''), 200);
  END IF;
  DECLARE
    signs constant text := E'{separators_v1}';
    letter constant text := '[^' || signs || ']';
    name text := folded;
  BEGIN
    IF name COLLATE "C" ~ '[$!@]' THEN
      IF pg_catalog.strpos(name, '$') > 0 THEN
        -- A dollar without a letter or another dollar beside it stays a sign, which is dropped.
        name := pg_catalog.replace(pg_catalog.regexp_replace(name COLLATE "C", pg_catalog.replace(
          '(?<![^-])[$]+(?![^-])', '-', pg_catalog.replace(signs, E'\u0001-\u002f', E'\u0001-\u0023\u0025-\u002f')
        ), ' ', 'g'), '$', 's');
      END IF;
      IF pg_catalog.strpos(name, '!') > 0 THEN
        name := pg_catalog.regexp_replace(name COLLATE "C", '(?<=' || letter || ')!(?=' || letter || ')', 'i', 'g');
      END IF;
      IF pg_catalog.strpos(name, '@') > 0 THEN
        name := pg_catalog.regexp_replace(name COLLATE "C", '(?<=' || letter || ')@(?=' || letter || ')', 'a', 'g');
      END IF;
    END IF;
    name := pg_catalog.regexp_replace(name COLLATE "C", '[' || signs || ']+', '', 'g');
    IF name = '' THEN
      name := pg_catalog.regexp_replace(
        folded COLLATE "C", E'[{blanks_v1}]+', '', 'g');
    END IF;
    RETURN pg_catalog.left(name, 200);
  END;
END
$$;

-- Return the search vector of a track: its words with their positions and weights (title A, artist B, album C, genre and
-- year D). A gap between two fields keeps phrases inside one. The vector also contains the initials of the artist
-- (=initials:nin) and, for filters, the names of album and genre (=genre:hiphop).
CREATE FUNCTION audiocatalog_weigh_v1(
  title text, artist text, album text, genre text, year integer, album_name text, genre_name text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  word text;
  place integer := 0;
  initials text := '';
  written text := '';
  parts text[];
BEGIN
  -- An append copies the whole text, so it is collected in parts of about 2,000 bytes to keep the cost linear.
  -- No word contains a quote or a backslash, because both are punctuation.
  FOREACH word IN ARRAY pg_catalog.string_to_array(pg_catalog.translate(coalesce(title, ''), E'\n', ' '), ' ') LOOP
    IF word <> '' THEN
      place := place + 1;
      written := written || '''' || word || ''':' || place || 'A ';
      IF pg_catalog.octet_length(written) > 2000 THEN
        parts := parts || written;
        written := '';
      END IF;
    END IF;
  END LOOP;
  IF artist IS NOT NULL THEN
    place := place + 1;
    FOREACH word IN ARRAY pg_catalog.string_to_array(pg_catalog.translate(artist, E'\n', ' '), ' ') LOOP
      IF word <> '' THEN
        place := place + 1;
        written := written || '''' || word || ''':' || place || 'B ';
        IF pg_catalog.octet_length(written) > 2000 THEN
          parts := parts || written;
          written := '';
        END IF;
        IF pg_catalog.octet_length(initials) <= 8 THEN
          initials := initials || pg_catalog.left(word, 1);
        END IF;
      END IF;
    END LOOP;
    IF pg_catalog.octet_length(initials) BETWEEN 3 AND 8 AND initials COLLATE "C" ~ '^[a-z]*$' THEN
      written := written || '''=initials:' || initials || ''' ';
    END IF;
  END IF;
  IF album IS NOT NULL THEN
    place := place + 1;
    FOREACH word IN ARRAY pg_catalog.string_to_array(pg_catalog.translate(album, E'\n', ' '), ' ') LOOP
      IF word <> '' THEN
        place := place + 1;
        written := written || '''' || word || ''':' || place || 'C ';
        IF pg_catalog.octet_length(written) > 2000 THEN
          parts := parts || written;
          written := '';
        END IF;
      END IF;
    END LOOP;
    written := written || '''=album:' || pg_catalog.replace(pg_catalog.replace(album_name, E'\\', E'\\\\'), '''', '''''') || ''' ';
  END IF;
  IF genre IS NOT NULL THEN
    place := place + 1;
    FOREACH word IN ARRAY pg_catalog.string_to_array(pg_catalog.translate(genre, E'\n', ' '), ' ') LOOP
      IF word <> '' THEN
        place := place + 1;
        written := written || '''' || word || ''':' || place || 'D ';
      END IF;
    END LOOP;
    written := written || '''=genre:' || pg_catalog.replace(pg_catalog.replace(genre_name, E'\\', E'\\\\'), '''', '''''') || ''' ';
  END IF;
  IF year IS NOT NULL THEN
    written := written || '''' || year || ''':' || place + 2 || 'D';
  END IF;
  IF parts IS NOT NULL THEN
    written := pg_catalog.array_to_string(parts, '') || written;
  END IF;
  RETURN written::tsvector;
END
$$;

-- Return the search vector of a track's fields.
CREATE FUNCTION audiocatalog_search_vector_v1(title text, artist text, album text, genre text, year integer)
RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT audiocatalog_weigh_v1(
    audiocatalog_words_v1(audiocatalog_fold_v1(title)),
    audiocatalog_words_v1(audiocatalog_fold_v1(artist)),
    audiocatalog_words_v1(audiocatalog_fold_v1(album)),
    audiocatalog_words_v1(audiocatalog_fold_v1(genre)),
    year,
    audiocatalog_name_v1(audiocatalog_fold_v1(album)),
    audiocatalog_name_v1(audiocatalog_fold_v1(genre)));
END;

-- Return NULL, for the spare vector column. The revision with the next version renames this function and gives it a body;
-- a later revision gives the function of this version this name and this body.
CREATE FUNCTION audiocatalog_no_vector(title text, artist text, album text, genre text, year integer)
RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NULL::tsvector;

-- Return the tsquery of a term as text, given the lines of audiocatalog_words_v1: the words in sequence, or a joined
-- spelling, or the words split at apostrophes; for a phrase, only the words in sequence. Each word is followed by ~ and
-- the last one of each spelling by ^; the caller replaces them by the weight of a field and the mark of a prefix. Long
-- sequences are split into runs of 8 words, because the server compares all positions with each other. Return an empty
-- text for a term without words.
CREATE FUNCTION audiocatalog_spell_v1(words text, phrase boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
  lines text[];
  spellings text[];
  spelling text;
  piece text;
  last text;
  place integer;
  run text;
  written text;
  alternatives text := '';
BEGIN
  IF words COLLATE "C" ~ '^[0-9a-z]+$' THEN
    RETURN '''' || words || '''^';
  END IF;
  lines := pg_catalog.string_to_array(words, E'\n');
  spellings := ARRAY[lines[1]];
  IF NOT phrase OR pg_catalog.btrim(lines[1]) = '' THEN
    spellings := spellings || pg_catalog.string_to_array(lines[2], ' ') || lines[3];
  END IF;
  FOREACH spelling IN ARRAY spellings LOOP
    CONTINUE WHEN spelling IS NULL;
    written := '';
    run := '';
    place := 0;
    FOREACH piece IN ARRAY pg_catalog.string_to_array(spelling, ' ') LOOP
      EXIT WHEN place = 64;
      CONTINUE WHEN piece = '';
      IF place > 0 AND pg_catalog.mod(place, 8) = 0 THEN
        IF pg_catalog.strpos(written, run) = 0 THEN
          written := written || run || '~ & ';
        END IF;
        run := '';
      END IF;
      run := run || CASE run WHEN '' THEN '' ELSE '~ <-> ' END || '''' || piece || '''';
      place := place + 1;
      last := piece;
    END LOOP;
    IF place > 0 THEN
      -- After other words, a word of 1 or 2 characters is not a prefix, because too many words match it.
      alternatives := alternatives || CASE alternatives WHEN '' THEN '' ELSE ' | ' END || written || run
        || CASE WHEN place > 1 AND pg_catalog.char_length(last) < 3 THEN '~' ELSE '^' END;
    END IF;
  END LOOP;
  RETURN alternatives;
END
$$;

-- Return a word and its variants with one letter deleted. Two words that share a variant differ by at most two edits: a
-- letter inserted, deleted, replaced or swapped with its neighbour (the method is called symmetric delete). The variants
-- of a Hangul word include its parts of at least two syllables.
CREATE FUNCTION audiocatalog_slips_v1(word text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
  found text[] := ARRAY[word];
  length constant integer := pg_catalog.char_length(word);
BEGIN
  IF length BETWEEN 3 AND 30 THEN
    FOR place IN 1 .. length LOOP
      found := found || (pg_catalog.left(word, place - 1) || pg_catalog.substr(word, place + 1));
    END LOOP;
  END IF;
  IF length BETWEEN 3 AND 12 AND word COLLATE "C" ~ E'^[\uac00-\ud7a3]+$' THEN
    FOR begun IN 1 .. length - 1 LOOP
      FOR size IN 2 .. length - begun + 1 LOOP
        found := found || pg_catalog.substr(word, begun, size);
      END LOOP;
    END LOOP;
  END IF;
  RETURN found;
END
$$;
