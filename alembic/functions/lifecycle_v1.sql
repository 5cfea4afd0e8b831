-- Functions that move tracks from status to status, one or a few at a time. content_v1.sql and bulk_v1.sql hold the
-- functions that write content. No other code writes the history.
--
-- Each function is called by one statement. They are SECURITY DEFINER, so the role of the application needs no right to
-- write the history, and cannot forge it. The search path is the one that the migration sets, with pg_temp last, so no
-- temporary table can replace one of ours.
--
-- The row of audio_tracks is the lock. A function that changes the status or the task of a track first locks that row by
-- its id, then reads the rest in a new snapshot. Several rows are locked in the order of their ids. If a task is found by
-- its track, its times are compared by `(x > y) IS TRUE`, which keeps the planner from scanning an index on the times.
--
-- A role may call a function with any arguments. So each function first refuses arguments that are null or out of their
-- range, by one CASE that names the first of them. The domains check lengths and ranges of content.
-- Version 1.

-- Raise an error that names the argument.
CREATE FUNCTION audiocatalog_refuse_v1(argument text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
  RAISE EXCEPTION USING
    MESSAGE = 'the argument ' || argument || ' is null or out of its range', ERRCODE = 'invalid_parameter_value',
    COLUMN = argument;
END
$$;

-- Return the name of the first wrong argument, or null. Valid arguments are 1 to 1000 tracks, and a token and an operation
-- id for each track.
CREATE FUNCTION audiocatalog_wrong_claims_v1(tracks uuid[], tokens bigint[], operations uuid[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
  RETURN CASE
    WHEN (array_ndims(tracks) = 1 AND cardinality(tracks) <= 1000 AND array_position(tracks, NULL) IS NULL) IS NOT TRUE
      THEN 'tracks'
    WHEN (array_ndims(tokens) = 1 AND cardinality(tokens) = cardinality(tracks) AND array_position(tokens, NULL) IS NULL)
      IS NOT TRUE THEN 'tokens'
    WHEN (array_ndims(operations) = 1 AND cardinality(operations) = cardinality(tracks)
          AND array_position(operations, NULL) IS NULL) IS NOT TRUE THEN 'operations'
  END;
END
$$;

-- Return the name of the first argument that is null or out of its range, or null.
CREATE FUNCTION audiocatalog_wrong_retries_v1(
  most_attempts integer, delay double precision, longest double precision, jitter double precision, notify boolean
) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
  -- NaN sorts above infinity, so the upper bounds refuse both.
  RETURN CASE
    WHEN (most_attempts BETWEEN 1 AND 1000) IS NOT TRUE THEN 'most_attempts'
    WHEN (delay BETWEEN 0 AND 86400) IS NOT TRUE THEN 'delay'
    WHEN (longest BETWEEN 0 AND 86400) IS NOT TRUE THEN 'longest'
    WHEN (jitter BETWEEN 0 AND 1) IS NOT TRUE THEN 'jitter'
    WHEN notify IS NULL THEN 'notify'
  END;
END
$$;

-- Return the pause before the next attempt: *delay* seconds after the first attempt, doubled by each further attempt, at
-- most *longest* seconds. Jitter shortens the pause by up to the share *jitter* (0 to 1). The jitter is a hash of the track
-- and the token, so it spreads tracks that failed together, and is the same on every copy of the database.
CREATE FUNCTION audiocatalog_pause_v1(
  track uuid, token bigint, attempt integer, delay double precision, longest double precision, jitter double precision
) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT least(longest, delay * 2::double precision ^ least(attempt - 1, 100))
    * (1 - jitter * (uuid_hash_extended(track, token) & 1048575) / 1048576) * interval '1 second'
$$;

-- Move a track to the status *target*, and return the row of the history. If *allowed_from* is not null, it must hold the
-- track's status. If the operation was done before, return the row that it wrote then. Without a row, *seen* is the status
-- when the statement began and *actual* the status under the lock; both are null if there is no such track. The task is
-- reset, with no attempts.
CREATE FUNCTION audiocatalog_move_v1(
  track uuid, target text, allowed_from text[], actor_ text, reason_ text, operation uuid, notify boolean,
  OUT seen text, OUT actual text, OUT version integer, OUT from_status text, OUT to_status text, OUT actor text,
  OUT reason text, OUT operation_id uuid, OUT attempt integer, OUT at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
  wrong text := CASE
    WHEN track IS NULL THEN 'track' WHEN target IS NULL THEN 'target'
    WHEN allowed_from IS NOT NULL AND (array_ndims(allowed_from) = 1 AND cardinality(allowed_from) <= 10
                                 AND array_position(allowed_from, NULL) IS NULL) IS NOT TRUE THEN 'allowed_from'
    WHEN actor_ IS NULL THEN 'actor_' WHEN notify IS NULL THEN 'notify'
  END;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  SELECT t.status INTO seen FROM audio_tracks AS t WHERE t.id = track;
  SELECT t.status INTO actual FROM audio_tracks AS t WHERE t.id = track FOR NO KEY UPDATE;
  IF actual IS NULL THEN
    RETURN;
  END IF;
  IF operation IS NOT NULL THEN
    SELECT c.version, c.from_status, c.to_status, c.actor, c.reason, c.operation_id, c.attempt, c.at
    INTO version, from_status, to_status, actor, reason, operation_id, attempt, at
    FROM audio_track_status_changes AS c WHERE c.track_id = track AND c.operation_id = operation;
    IF FOUND THEN
      RETURN;
    END IF;
  END IF;
  IF actual <> ALL (allowed_from) THEN
    RETURN;
  END IF;
  UPDATE audio_tracks AS t SET status = target, version = t.version + 1, updated_at = now()
  WHERE t.id = track
  RETURNING t.version INTO version;
  at := clock_timestamp();
  INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, reason, operation_id, at)
  VALUES (track, version, actual, target, actor_, reason_, operation, at);
  IF target = 'COMPLETED' THEN
    DELETE FROM audio_track_tasks AS k WHERE k.track_id = track;
  ELSE
    INSERT INTO audio_track_tasks AS k (track_id, status, since, ready_at, last_error)
    VALUES (track, target, at, CASE target WHEN 'PENDING' THEN at END, CASE target WHEN 'FAILED' THEN reason_ END)
    ON CONFLICT (track_id) DO UPDATE
    SET status = excluded.status, since = excluded.since, ready_at = excluded.ready_at, expires_at = NULL, token = NULL,
        worker = NULL, begun = false, attempts = 0, last_error = excluded.last_error;
    IF notify AND target = 'PENDING' THEN
      PERFORM pg_notify('audiocatalog_pending', '');
    END IF;
  END IF;
  from_status := actual;
  to_status := target;
  actor := actor_;
  reason := reason_;
  operation_id := operation;
END
$$;

-- Lock at most *most* tracks, skip those that other transactions hold, and return the ids. *which* is one of:
--   oldest, newest: waiting tracks that are due, by the time at which they became due.
--   hidden: waiting tracks with times in the future, written before the clock was set back.
--   expired: tracks with an expired lease.
-- Every other function locks rows by their ids.
CREATE FUNCTION audiocatalog_lock_due_v1(which text, most integer, now_ timestamptz) RETURNS uuid[]
LANGUAGE plpgsql
AS $$
BEGIN
  CASE which
  WHEN 'oldest' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.ready_at <= now_ AND t.status = 'PENDING'
      ORDER BY k.ready_at, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'newest' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.ready_at <= now_ AND t.status = 'PENDING'
      ORDER BY k.ready_at DESC, k.track_id DESC LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'hidden' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.since > now_ AND k.ready_at > now_ AND t.status = 'PENDING'
      ORDER BY k.since, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'expired' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.expires_at <= now_ AND t.status = 'PROCESSING'
      ORDER BY k.expires_at, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  END CASE;
END
$$;

-- Record that work on a claimed track begins, and count an attempt. If *begins* is false, undo both. Return the number of
-- the attempt, or no row if the claim has expired. The commit does not wait for the disk: if the server crashes, the only
-- loss is an uncounted attempt.
CREATE FUNCTION audiocatalog_begin_v1(track uuid, fence bigint, begins boolean) RETURNS TABLE (attempt integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
  wrong text := CASE
    WHEN track IS NULL THEN 'track' WHEN fence IS NULL THEN 'fence' WHEN begins IS NULL THEN 'begins'
  END;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  -- If the transaction has written before, its commit must wait for the disk.
  IF pg_current_xact_id_if_assigned() IS NULL THEN
    PERFORM set_config('synchronous_commit', 'off', true);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = track FOR NO KEY UPDATE;
  RETURN QUERY
  UPDATE audio_track_tasks AS k
  SET begun = begins, attempts = k.attempts + begins::integer - k.begun::integer
  WHERE k.track_id = track AND k.token = fence AND (k.expires_at > clock_timestamp()) IS TRUE
  RETURNING k.attempts + (NOT k.begun)::integer;
END
$$;

-- Extend the leases that have not expired, so that each ends *lease* from now. Return the tracks and the new ends.
CREATE FUNCTION audiocatalog_renew_v1(tracks uuid[], tokens bigint[], lease interval)
RETURNS TABLE (track_id uuid, expires_at audiocatalog_time)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  seconds double precision := extract(epoch FROM lease);
  wrong text := coalesce(
    audiocatalog_wrong_claims_v1(tracks, tokens, tracks),
    CASE WHEN (seconds > 0 AND seconds <= 604800) IS NOT TRUE THEN 'lease' END
  );
  now_ timestamptz;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = ANY (tracks) ORDER BY t.id FOR NO KEY UPDATE;
  now_ := clock_timestamp();
  RETURN QUERY
  UPDATE audio_track_tasks AS k SET expires_at = greatest(k.expires_at, now_ + seconds * interval '1 second')
  FROM unnest(tracks, tokens) AS asked (track_id, token)
  WHERE k.track_id = asked.track_id AND k.token = asked.token AND (k.expires_at > now_) IS TRUE
  RETURNING k.track_id, k.expires_at;
END
$$;

-- Return the rows of the history that these operations wrote, except those at *now_*, which the calling function wrote.
CREATE FUNCTION audiocatalog_answers_v1(tracks uuid[], operations uuid[], now_ timestamptz)
RETURNS TABLE (
  place bigint, track_id uuid, version integer, from_status text, to_status text, actor text, reason text,
  operation_id uuid, attempt integer, at timestamptz
)
LANGUAGE sql
AS $$
  SELECT asked.place, c.track_id, c.version::integer, c.from_status::text, c.to_status::text, c.actor::text,
    c.reason::text, c.operation_id, c.attempt, c.at::timestamptz
  FROM unnest(tracks, operations) WITH ORDINALITY AS asked (track_id, operation_id, place)
  JOIN audio_track_status_changes AS c ON c.track_id = asked.track_id AND c.operation_id = asked.operation_id
  WHERE c.at <> now_
$$;

-- Abandon claims that have not expired, and return the rows of the history, as audiocatalog_complete does. A track becomes
-- PENDING and waits for audiocatalog_pause_v1. It becomes FAILED without *retry*, or after *most_attempts* attempts. If an
-- attempt does not count (*counts_as_attempt*), the history does not number it, and the track is due at once.
CREATE FUNCTION audiocatalog_give_up_v1(
  tracks uuid[], tokens bigint[], operations uuid[], actor_ text, reason_ text, retry boolean, counts_as_attempt boolean,
  most_attempts integer, delay double precision, longest double precision, jitter double precision, notify boolean
) RETURNS TABLE (
  place bigint, track_id uuid, version integer, from_status text, to_status text, actor text, reason text,
  operation_id uuid, attempt integer, at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  wrong text := coalesce(
    audiocatalog_wrong_claims_v1(tracks, tokens, operations),
    CASE WHEN retry IS NULL THEN 'retry' WHEN counts_as_attempt IS NULL THEN 'counts_as_attempt' END,
    audiocatalog_wrong_retries_v1(most_attempts, delay, longest, jitter, notify)
  );
  now_ timestamptz;
  ended bigint;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = ANY (tracks) ORDER BY t.id FOR NO KEY UPDATE;
  now_ := clock_timestamp();
  RETURN QUERY
  WITH ended AS (
    UPDATE audio_track_tasks AS k
    SET status = next.status, since = now_, expires_at = NULL, token = NULL, worker = NULL, begun = false,
        ready_at = CASE next.status WHEN 'PENDING' THEN now_ + next.pause END,
        attempts = next.attempt - (NOT counts_as_attempt)::integer,
        last_error = CASE WHEN counts_as_attempt THEN reason_ ELSE k.last_error END
    FROM unnest(tracks, tokens, operations) WITH ORDINALITY AS asked (track_id, token, operation_id, place)
    JOIN audio_track_tasks AS held ON held.track_id = asked.track_id
    CROSS JOIN LATERAL (SELECT held.attempts + (NOT held.begun)::integer) AS this (attempt)
    CROSS JOIN LATERAL (
      SELECT this.attempt,
        CASE WHEN retry AND (this.attempt < most_attempts OR NOT counts_as_attempt) THEN 'PENDING' ELSE 'FAILED' END,
        counts_as_attempt::integer * audiocatalog_pause_v1(held.track_id, held.token, this.attempt, delay, longest, jitter)
    ) AS next (attempt, status, pause)
    WHERE k.track_id = held.track_id AND k.token = asked.token AND (k.expires_at > now_) IS TRUE
    RETURNING asked.place, k.track_id, asked.operation_id, k.status, coalesce(actor_, held.worker) AS actor,
      CASE WHEN counts_as_attempt THEN next.attempt END AS attempt
  ), moved AS (
    UPDATE audio_tracks AS t SET status = ended.status, version = t.version + 1, updated_at = now()
    FROM ended WHERE t.id = ended.track_id
    RETURNING ended.place, t.id, t.version, t.status, ended.operation_id, ended.attempt, ended.actor
  ), logged AS (
    INSERT INTO audio_track_status_changes
      (track_id, version, from_status, to_status, actor, reason, operation_id, attempt, at)
    SELECT moved.id, moved.version, 'PROCESSING', moved.status, moved.actor, reason_, moved.operation_id, moved.attempt,
      now_
    FROM moved
  )
  SELECT moved.place, moved.id, moved.version::integer, 'PROCESSING', moved.status::text, moved.actor::text, reason_,
    moved.operation_id, moved.attempt, now_
  FROM moved;
  GET DIAGNOSTICS ended = ROW_COUNT;
  IF notify AND ended > 0 AND retry THEN
    PERFORM pg_notify('audiocatalog_pending', '');
  END IF;
  IF ended < cardinality(tracks) THEN
    RETURN QUERY SELECT * FROM audiocatalog_answers_v1(tracks, operations, now_);
  END IF;
END
$$;

-- Release at most *most* claims with an expired lease, as audiocatalog_give_up_v1 does, and return the rows of the history.
-- If the work on a track had not begun, no attempt is counted and the track is due at once, because this track did not
-- crash its worker. The UPDATE checks again that the lease has expired.
CREATE FUNCTION audiocatalog_release_expired_v1(
  most integer, actor_ text, most_attempts integer, delay double precision, longest double precision,
  jitter double precision, notify boolean
) RETURNS TABLE (
  track_id uuid, version integer, from_status text, to_status text, actor text, reason text, operation_id uuid,
  attempt integer, at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  wrong text := coalesce(
    CASE WHEN (most BETWEEN 1 AND 1000) IS NOT TRUE THEN 'most' WHEN actor_ IS NULL THEN 'actor_' END,
    audiocatalog_wrong_retries_v1(most_attempts, delay, longest, jitter, notify)
  );
  now_ timestamptz := clock_timestamp();
  ids uuid[];
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  ids := audiocatalog_lock_due_v1('expired', most, now_);
  now_ := clock_timestamp();
  RETURN QUERY
  WITH ended AS (
    UPDATE audio_track_tasks AS k
    SET status = next.status, since = now_, expires_at = NULL, token = NULL, worker = NULL, begun = false,
        ready_at = CASE next.status WHEN 'PENDING' THEN now_ + next.pause END,
        last_error = CASE WHEN held.begun THEN next.reason ELSE k.last_error END
    FROM audio_track_tasks AS held
    CROSS JOIN LATERAL (
      SELECT
        CASE WHEN held.attempts < most_attempts OR NOT held.begun THEN 'PENDING' ELSE 'FAILED' END,
        held.begun::integer * audiocatalog_pause_v1(held.track_id, held.token, held.attempts, delay, longest, jitter),
        'the lease of ' || held.worker || ' ran out'
    ) AS next (status, pause, reason)
    WHERE held.track_id = ANY (ids) AND k.track_id = held.track_id AND (k.expires_at <= now_) IS TRUE
    RETURNING k.track_id, k.status, next.reason, CASE WHEN held.begun THEN held.attempts END AS attempt
  ), moved AS (
    UPDATE audio_tracks AS t SET status = ended.status, version = t.version + 1, updated_at = now()
    FROM ended WHERE t.id = ended.track_id
    RETURNING t.id, t.version, t.status, ended.attempt, ended.reason
  ), logged AS (
    INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, reason, attempt, at)
    SELECT moved.id, moved.version, 'PROCESSING', moved.status, actor_, moved.reason, moved.attempt, now_ FROM moved
  )
  SELECT moved.id, moved.version::integer, 'PROCESSING', moved.status::text, actor_, moved.reason, NULL::uuid,
    moved.attempt, now_
  FROM moved;
  IF notify AND FOUND THEN
    PERFORM pg_notify('audiocatalog_pending', '');
  END IF;
END
$$;

-- Set the times at which tracks were created, at most to now, and return the number of tracks. Only tracks that this
-- transaction has saved are changed. Only the owner may call the function, because a wrong time would forge a track's age.
CREATE FUNCTION audiocatalog_restore_v1(tracks uuid[], times timestamptz[]) RETURNS integer
LANGUAGE sql SET search_path FROM CURRENT
AS $$
  WITH restored AS (
    UPDATE audio_tracks AS t SET created_at = least(past.created_at, now())
    FROM unnest(tracks, times) AS past (id, created_at)
    JOIN audio_track_status_changes AS c ON c.track_id = past.id AND c.version = 1
    WHERE t.id = past.id AND past.created_at IS NOT NULL AND c.xact_id = pg_current_xact_id()::text::bigint
    RETURNING t.id
  )
  SELECT count(*)::integer FROM restored
$$;
