-- Return whether a text has a visible character: any but spaces, controls, formats (Unicode categories Z, Cc, Cf) and
-- other default-ignorables. It compares code points, so the result does not depend on the locale. Version 1.
CREATE FUNCTION audiocatalog_visible_v1(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
  RETURN value COLLATE "C" ~ E'[^{invisible_v1}]';
END
$$;
