-- Return whether a track may move from one status to another; a new track moves from null. A test compares this function
-- with the table of moves in audiocatalog/status.py. PostgreSQL parses the CHECKs of a table for each statement that
-- writes it, but caches a function, so the CHECK of the history calls a function. Version 1.
CREATE FUNCTION audiocatalog_legal_move_v1(from_status text, to_status text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
  RETURN coalesce(
    CASE
      WHEN from_status IS NULL THEN to_status IN ('PENDING', 'COMPLETED')
      WHEN from_status = 'PENDING' THEN to_status IN ('PROCESSING', 'FAILED')
      WHEN from_status = 'PROCESSING' THEN to_status IN ('PENDING', 'COMPLETED', 'FAILED')
      WHEN from_status IN ('FAILED', 'COMPLETED') THEN to_status = 'PENDING'
    END,
    false
  );
END
$$;
