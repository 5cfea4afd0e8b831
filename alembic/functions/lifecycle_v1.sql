-- How tracks are saved and moved from status to status, one or a few at a time; bulk_v1.sql is for many. There are no
-- other ways to write the history.
-- Each function is one transaction step, called by one statement. They run with the rights of their owner, so that the
-- role of the application needs none to write the history, and cannot forge it. The search path is the one that the
-- migration sets, with pg_temp last: no temporary table can take the place of ours.
--
-- The row of audio_tracks is the lock. Whoever changes a status, or the task of a track, holds it first, by id, and
-- reads what follows in a new snapshot. Several are locked in the order of their ids. Where a task is known by its
-- track, its times are compared by IS TRUE, which no index serves: an index on them would be read from end to end.
--
-- What a role may call, it may call with anything: each function refuses arguments that are null or out of their range
-- before it does anything, by one CASE that names the first of them. Lengths and ranges of content are the domains'.
-- Version 1.

-- Refuse the argument of this name.
CREATE FUNCTION audiocatalog_refuse_v1(argument text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
  RAISE EXCEPTION USING
    MESSAGE = 'the argument ' || argument || ' is null or out of its range', ERRCODE = 'invalid_parameter_value',
    COLUMN = argument;
END
$$;

-- Return the name of the argument that does not name claims: one to a thousand tracks, and for each a token and the id of
-- an operation.
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

-- Return the name of the argument that is no rule for further tries.
CREATE FUNCTION audiocatalog_wrong_retries_v1(
  most_attempts integer, delay double precision, longest double precision, spread double precision, wake boolean
) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
  -- NaN sorts above infinity, so that the upper bounds refuse both.
  RETURN CASE
    WHEN (most_attempts BETWEEN 1 AND 1000) IS NOT TRUE THEN 'most_attempts'
    WHEN (delay BETWEEN 0 AND 86400) IS NOT TRUE THEN 'delay'
    WHEN (longest BETWEEN 0 AND 86400) IS NOT TRUE THEN 'longest'
    WHEN (spread BETWEEN 0 AND 1) IS NOT TRUE THEN 'spread'
    WHEN wake IS NULL THEN 'wake'
  END;
END
$$;

-- Return how long a track waits for its next try: *delay* seconds after the first one, doubled by each further one, at
-- most *longest*, and up to the share *spread* of that less. The claim decides how much less: it is different for each
-- track and each try, so that what failed together is not tried together, and the same for every copy of the database.
CREATE FUNCTION audiocatalog_pause_v1(
  track uuid, token bigint, attempt integer, delay double precision, longest double precision, spread double precision
) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT least(longest, delay * 2::double precision ^ least(attempt - 1, 100))
    * (1 - spread * (uuid_hash_extended(track, token) & 1048575) / 1048576) * interval '1 second'
$$;

-- Move a track to the status *target* if it is in one of *starts*, or in any if they are null, and return the row of the
-- history. An operation that has been done before is answered with the row it made. Without a row, *seen* is the status
-- when the statement began, *actual* the one under the lock, both null if there is no such track. The task begins anew:
-- nobody has tried it yet.
CREATE FUNCTION audiocatalog_move_v1(
  track uuid, target text, starts text[], who text, why text, operation uuid, wake boolean,
  OUT seen text, OUT actual text, OUT version integer, OUT from_status text, OUT to_status text, OUT actor text,
  OUT reason text, OUT operation_id uuid, OUT attempt integer, OUT at timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
  wrong text := CASE
    WHEN track IS NULL THEN 'track' WHEN target IS NULL THEN 'target'
    WHEN starts IS NOT NULL AND (array_ndims(starts) = 1 AND cardinality(starts) <= 10
                                 AND array_position(starts, NULL) IS NULL) IS NOT TRUE THEN 'starts'
    WHEN who IS NULL THEN 'who' WHEN wake IS NULL THEN 'wake'
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
  IF actual <> ALL (starts) THEN
    RETURN;
  END IF;
  UPDATE audio_tracks AS t SET status = target, version = t.version + 1, updated_at = now()
  WHERE t.id = track
  RETURNING t.version INTO version;
  at := clock_timestamp();
  INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, reason, operation_id, at)
  VALUES (track, version, actual, target, who, why, operation, at);
  IF target = 'COMPLETED' THEN
    DELETE FROM audio_track_tasks AS k WHERE k.track_id = track;
  ELSE
    INSERT INTO audio_track_tasks AS k (track_id, status, since, ready_at, last_error)
    VALUES (track, target, at, CASE target WHEN 'PENDING' THEN at END, CASE target WHEN 'FAILED' THEN why END)
    ON CONFLICT (track_id) DO UPDATE
    SET status = excluded.status, since = excluded.since, ready_at = excluded.ready_at, expires_at = NULL, token = NULL,
        worker = NULL, begun = false, attempts = 0, last_error = excluded.last_error;
    IF wake AND target = 'PENDING' THEN
      PERFORM pg_notify('audiocatalog_pending', '');
    END IF;
  END IF;
  from_status := actual;
  to_status := target;
  actor := who;
  reason := why;
  operation_id := operation;
END
$$;

-- Lock up to *most* tracks that are due, without waiting for any that others hold, and return their ids: the *oldest* or
-- *newest* of those that wait for a worker; of those that wait as well, what the clock *hides*, because it was set back
-- since they came; or those whose lease has *expired*. Nothing else locks rows that it does not know by id.
CREATE FUNCTION audiocatalog_lock_due_v1(which text, most integer, moment timestamptz) RETURNS uuid[]
LANGUAGE plpgsql
AS $$
BEGIN
  CASE which
  WHEN 'oldest' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.ready_at <= moment AND t.status = 'PENDING'
      ORDER BY k.ready_at, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'newest' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.ready_at <= moment AND t.status = 'PENDING'
      ORDER BY k.ready_at DESC, k.track_id DESC LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'hidden' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.since > moment AND k.ready_at > moment AND t.status = 'PENDING'
      ORDER BY k.since, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  WHEN 'expired' THEN
    RETURN ARRAY(
      SELECT t.id FROM audio_track_tasks AS k JOIN audio_tracks AS t ON t.id = k.track_id
      WHERE k.expires_at <= moment AND t.status = 'PROCESSING'
      ORDER BY k.expires_at, k.track_id LIMIT most
      FOR NO KEY UPDATE OF t SKIP LOCKED
    );
  END CASE;
END
$$;

-- Note that the work on a claimed track begins, and count a try; or, if it does not *begin* after all, that it was none.
-- Return which try of the track it is, or nothing if the claim holds no longer. This changes nothing for readers of the
-- track, and a server that crashes may forget it, which leaves a try uncounted: so the commit does not wait for the disk.
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
  -- In a transaction that has written before, the caller waits for the disk as for the rest of it.
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

-- Prolong the leases of claims that still hold to *lease* from now, and return their tracks and new ends.
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
  moment timestamptz;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = ANY (tracks) ORDER BY t.id FOR NO KEY UPDATE;
  moment := clock_timestamp();
  RETURN QUERY
  UPDATE audio_track_tasks AS k SET expires_at = greatest(k.expires_at, moment + seconds * interval '1 second')
  FROM unnest(tracks, tokens) AS asked (track_id, token)
  WHERE k.track_id = asked.track_id AND k.token = asked.token AND (k.expires_at > moment) IS TRUE
  RETURNING k.track_id, k.expires_at;
END
$$;

-- Return the rows of the history that operations made, but for those of *moment*, which the caller has made itself.
CREATE FUNCTION audiocatalog_answers_v1(tracks uuid[], operations uuid[], moment timestamptz)
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
  WHERE c.at <> moment
$$;

-- End claims that still hold, without having done the work, and return the rows of the history, as above. A track waits
-- again, as long as audiocatalog_pause_v1 says. If it is not to be tried again, or has been tried *most_attempts* times,
-- it is FAILED. A try that is not *counted* never was one: the history does not number it, and the track waits no longer
-- than others.
CREATE FUNCTION audiocatalog_give_up_v1(
  tracks uuid[], tokens bigint[], operations uuid[], who text, why text, retry boolean, counted boolean,
  most_attempts integer, delay double precision, longest double precision, spread double precision, wake boolean
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
    CASE WHEN retry IS NULL THEN 'retry' WHEN counted IS NULL THEN 'counted' END,
    audiocatalog_wrong_retries_v1(most_attempts, delay, longest, spread, wake)
  );
  moment timestamptz;
  ended bigint;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = ANY (tracks) ORDER BY t.id FOR NO KEY UPDATE;
  moment := clock_timestamp();
  RETURN QUERY
  WITH ended AS (
    UPDATE audio_track_tasks AS k
    SET status = next.status, since = moment, expires_at = NULL, token = NULL, worker = NULL, begun = false,
        ready_at = CASE next.status WHEN 'PENDING' THEN moment + next.pause END,
        attempts = next.attempt - (NOT counted)::integer,
        last_error = CASE WHEN counted THEN why ELSE k.last_error END
    FROM unnest(tracks, tokens, operations) WITH ORDINALITY AS asked (track_id, token, operation_id, place)
    JOIN audio_track_tasks AS held ON held.track_id = asked.track_id
    CROSS JOIN LATERAL (SELECT held.attempts + (NOT held.begun)::integer) AS this (attempt)
    CROSS JOIN LATERAL (
      SELECT this.attempt,
        CASE WHEN retry AND (this.attempt < most_attempts OR NOT counted) THEN 'PENDING' ELSE 'FAILED' END,
        counted::integer * audiocatalog_pause_v1(held.track_id, held.token, this.attempt, delay, longest, spread)
    ) AS next (attempt, status, pause)
    WHERE k.track_id = held.track_id AND k.token = asked.token AND (k.expires_at > moment) IS TRUE
    RETURNING asked.place, k.track_id, asked.operation_id, k.status, coalesce(who, held.worker) AS actor,
      CASE WHEN counted THEN next.attempt END AS attempt
  ), moved AS (
    UPDATE audio_tracks AS t SET status = ended.status, version = t.version + 1, updated_at = now()
    FROM ended WHERE t.id = ended.track_id
    RETURNING ended.place, t.id, t.version, t.status, ended.operation_id, ended.attempt, ended.actor
  ), logged AS (
    INSERT INTO audio_track_status_changes
      (track_id, version, from_status, to_status, actor, reason, operation_id, attempt, at)
    SELECT moved.id, moved.version, 'PROCESSING', moved.status, moved.actor, why, moved.operation_id, moved.attempt,
      moment
    FROM moved
  )
  SELECT moved.place, moved.id, moved.version::integer, 'PROCESSING', moved.status::text, moved.actor::text, why,
    moved.operation_id, moved.attempt, moment
  FROM moved;
  GET DIAGNOSTICS ended = ROW_COUNT;
  IF wake AND ended > 0 AND retry THEN
    PERFORM pg_notify('audiocatalog_pending', '');
  END IF;
  IF ended < cardinality(tracks) THEN
    RETURN QUERY SELECT * FROM audiocatalog_answers_v1(tracks, operations, moment);
  END IF;
END
$$;

-- Take up to *most* tracks back whose leases have run out, as audiocatalog_give_up_v1 does, and return the rows of the
-- history. Where the work had not begun, no try is counted, and the track waits no longer than others: its worker died of
-- something else. That a lease has run out is looked at again when its row is written.
CREATE FUNCTION audiocatalog_release_expired_v1(
  most integer, who text, most_attempts integer, delay double precision, longest double precision,
  spread double precision, wake boolean
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
    CASE WHEN (most BETWEEN 1 AND 1000) IS NOT TRUE THEN 'most' WHEN who IS NULL THEN 'who' END,
    audiocatalog_wrong_retries_v1(most_attempts, delay, longest, spread, wake)
  );
  moment timestamptz := clock_timestamp();
  ids uuid[];
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  ids := audiocatalog_lock_due_v1('expired', most, moment);
  moment := clock_timestamp();
  RETURN QUERY
  WITH ended AS (
    UPDATE audio_track_tasks AS k
    SET status = next.status, since = moment, expires_at = NULL, token = NULL, worker = NULL, begun = false,
        ready_at = CASE next.status WHEN 'PENDING' THEN moment + next.pause END,
        last_error = CASE WHEN held.begun THEN next.reason ELSE k.last_error END
    FROM audio_track_tasks AS held
    CROSS JOIN LATERAL (
      SELECT
        CASE WHEN held.attempts < most_attempts OR NOT held.begun THEN 'PENDING' ELSE 'FAILED' END,
        held.begun::integer * audiocatalog_pause_v1(held.track_id, held.token, held.attempts, delay, longest, spread),
        'the lease of ' || held.worker || ' ran out'
    ) AS next (status, pause, reason)
    WHERE held.track_id = ANY (ids) AND k.track_id = held.track_id AND (k.expires_at <= moment) IS TRUE
    RETURNING k.track_id, k.status, next.reason, CASE WHEN held.begun THEN held.attempts END AS attempt
  ), moved AS (
    UPDATE audio_tracks AS t SET status = ended.status, version = t.version + 1, updated_at = now()
    FROM ended WHERE t.id = ended.track_id
    RETURNING t.id, t.version, t.status, ended.attempt, ended.reason
  ), logged AS (
    INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, reason, attempt, at)
    SELECT moved.id, moved.version, 'PROCESSING', moved.status, who, moved.reason, moved.attempt, moment FROM moved
  )
  SELECT moved.id, moved.version::integer, 'PROCESSING', moved.status::text, who, moved.reason, NULL::uuid, moved.attempt,
    moment
  FROM moved;
  IF wake AND FOUND THEN
    PERFORM pg_notify('audiocatalog_pending', '');
  END IF;
END
$$;

-- Give tracks that this very transaction has saved the times at which another catalogue created them, none later than
-- now, and return how many there were. For the owner alone: nobody else may say that a track is older than it is.
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
