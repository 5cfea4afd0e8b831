-- Tell whether the columns of a task fit each other. A waiting track has a time from when it may be claimed, at most a
-- day after it began to wait, and nothing of a claim. One in work has all three parts of a claim, or none where somebody
-- moved it by hand. A failed one has neither. So no track can be hidden from workers and from figures. The CHECK of
-- audio_track_tasks asks this function, as that of the history asks audiocatalog_legal_move_v1. Version 1.
CREATE FUNCTION audiocatalog_legal_task_v1(
  status text, since timestamptz, ready_at timestamptz, expires_at timestamptz, token bigint, worker text,
  begun boolean, attempts integer
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
  RETURN coalesce(
    attempts >= 0
    AND CASE status
      WHEN 'PENDING' THEN ready_at - since <= interval '1 day' AND num_nonnulls(expires_at, token, worker) = 0
      WHEN 'PROCESSING' THEN
        ready_at IS NULL AND num_nonnulls(expires_at, token, worker) = CASE WHEN token IS NULL THEN 0 ELSE 3 END
      WHEN 'FAILED' THEN num_nonnulls(ready_at, expires_at, token, worker) = 0
    END
    AND (token IS NOT NULL OR NOT begun),
    false
  );
END
$$;
