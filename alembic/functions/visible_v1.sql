-- Tell whether text has a character that leaves a mark on a page: not only spaces, controls, formats (Unicode
-- categories Z, Cc, Cf) and other default-ignorables. Compares code points, whatever the locale. Version 1.
CREATE FUNCTION audiocatalog_visible_v1(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  RETURN value COLLATE "C" ~ E'[^{invisible_v1}]';
END
$$;
