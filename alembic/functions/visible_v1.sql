-- Tell whether text has a character that leaves a mark on a page: not only spaces, controls, formats (Unicode
-- categories Z, Cc, Cf) and other default-ignorables. Compares code points, whatever the locale. Version 1.
CREATE FUNCTION audiocatalog_visible_v1(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  RETURN value COLLATE "C" ~
    E'[^\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]';
END
$$;
