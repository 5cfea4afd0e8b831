-- Return whether the columns of a task fit its status, so that no track is hidden from workers and statistics:
--   PENDING: ready_at is at most a day after since, and the columns of a claim are null.
--   PROCESSING: the columns of a claim are set, or all null if update_status moved the track.
--   FAILED: all of these columns are null.
-- The CHECK of audio_track_tasks calls this function, for the reason given at audiocatalog_legal_move_v1. Version 1.
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
