-- Save a new track, with the first row of its history and its task. Return the track's creation time, or null if the id
-- exists.
CREATE FUNCTION audiocatalog_save_v{version}(
  track uuid, first_status text, {content: NAME TYPE}, actor_ text, reason_ text, notify boolean
) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_variable
DECLARE
  wrong text := CASE
    WHEN track IS NULL THEN 'track' WHEN first_status IS NULL THEN 'first_status' WHEN title IS NULL THEN 'title'
    WHEN audio_path IS NULL THEN 'audio_path' WHEN actor_ IS NULL THEN 'actor_' WHEN notify IS NULL THEN 'notify'
  END;
  created timestamptz;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  INSERT INTO audio_tracks AS t (id, status, {content: NAME})
  VALUES (track, first_status, {content: NAME})
  ON CONFLICT (id) DO NOTHING
  RETURNING t.created_at INTO created;
  IF created IS NULL THEN
    RETURN NULL;
  END IF;
  INSERT INTO audio_track_status_changes (track_id, version, to_status, actor, reason)
  VALUES (track, 1, first_status, actor_, reason_);
  IF first_status <> 'COMPLETED' THEN
    INSERT INTO audio_track_tasks (track_id, status, since, ready_at)
    VALUES (track, first_status, clock_timestamp(), now());
    IF notify THEN
      PERFORM pg_notify('audiocatalog_pending', '');
    END IF;
  END IF;
  RETURN created;
END
$$;

-- Replace the content of a track, write a row of its edits, and return the track. Return no row if there is no such track,
-- if its version is not *expected* (unless *expected* is null), or if the content is the same.
CREATE FUNCTION audiocatalog_replace_v{version}(
  track uuid, expected integer, {content: new_NAME TYPE}, actor_ text, reason_ text
) RETURNS TABLE (
  id uuid, status audiocatalog_status, {content: NAME audiocatalog_NAME}, created_at audiocatalog_time,
  updated_at audiocatalog_time, version audiocatalog_count
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
  wrong text := CASE
    WHEN track IS NULL THEN 'track' WHEN new_title IS NULL THEN 'new_title'
    WHEN new_audio_path IS NULL THEN 'new_audio_path' WHEN actor_ IS NULL THEN 'actor_'
  END;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  RETURN QUERY
  WITH edited AS (
    UPDATE audio_tracks AS t
    SET {content: NAME = new_NAME}, version = t.version + 1,
        updated_at = now()
    WHERE t.id = track AND (expected IS NULL OR t.version = expected)
      AND ({content: t.NAME})
        IS DISTINCT FROM
          ({content: new_NAME})
    RETURNING t.id, t.status, {content: t.NAME}, t.created_at, t.updated_at, t.version
  ), logged AS (
    INSERT INTO audio_track_edits (track_id, version, actor, reason)
    SELECT edited.id, edited.version, actor_, reason_ FROM edited
  )
  SELECT * FROM edited;
END
$$;

-- Claim at most *most* due tracks for a worker. *lease* is at most a week. The token of a claim is the track's new version,
-- followed by 32 random bits: if a claim is rolled back, the next claim gets the same version, and must have another token.
--
-- An attempt is counted for each track. With *begins_one*, the caller works on one track after the other. Then only the
-- attempt for the first track is counted, and the caller calls audiocatalog_begin_v1 for each other track.
--
-- If the clock was set back, a waiting track may have times in the future. Such a track counts as due, but is looked up
-- only if the other tracks do not suffice, so that most claims do not pay for the lookup.
CREATE FUNCTION audiocatalog_claim_v{version}(
  most integer, lease interval, actor_ text, newest boolean, begins_one boolean DEFAULT false
)
RETURNS TABLE (
  id uuid, status audiocatalog_status, {content: NAME audiocatalog_NAME}, created_at audiocatalog_time,
  updated_at audiocatalog_time, version audiocatalog_count, attempt integer, expires_at audiocatalog_time,
  last_error audiocatalog_reason, begun boolean, token bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  -- The length of a day or a month varies, so the lease is converted to seconds.
  seconds double precision := extract(epoch FROM lease);
  wrong text := CASE
    WHEN (most BETWEEN 1 AND 1000) IS NOT TRUE THEN 'most'
    WHEN (seconds > 0 AND seconds <= 604800) IS NOT TRUE THEN 'lease'
    WHEN actor_ IS NULL THEN 'actor_' WHEN newest IS NULL THEN 'newest' WHEN begins_one IS NULL THEN 'begins_one'
  END;
  now_ timestamptz := clock_timestamp();
  nonce bigint := floor(random() * 4294967296);
  ids uuid[];
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  ids := audiocatalog_lock_due_v1(CASE WHEN newest THEN 'newest' ELSE 'oldest' END, most, now_);
  IF cardinality(ids) < most THEN
    ids := ids || audiocatalog_lock_due_v1('hidden', most - cardinality(ids), now_);
  END IF;
  now_ := clock_timestamp();
  RETURN QUERY
  WITH taken AS (
    UPDATE audio_track_tasks AS k
    SET status = 'PROCESSING', since = now_, ready_at = NULL,
        expires_at = now_ + seconds * interval '1 second', token = ((t.version + 1)::bigint << 32) + nonce,
        worker = actor_, begun = due.place = 1 OR NOT begins_one,
        attempts = k.attempts + (due.place = 1 OR NOT begins_one)::integer
    FROM unnest(ids) WITH ORDINALITY AS due (id, place) JOIN audio_tracks AS t ON t.id = due.id
    WHERE k.track_id = due.id AND t.status = 'PENDING' AND (k.ready_at <= now_ OR k.since > now_) IS TRUE
    RETURNING due.place, k.track_id, k.attempts + (NOT k.begun)::integer AS attempt, k.last_error, k.expires_at,
      k.begun, k.token
  ), moved AS (
    UPDATE audio_tracks AS t SET status = 'PROCESSING', version = t.version + 1, updated_at = now()
    FROM taken WHERE t.id = taken.track_id
    RETURNING t.id, t.status, {content: t.NAME}, t.created_at, t.updated_at, t.version, taken.attempt,
      taken.expires_at, taken.last_error, taken.begun, taken.token, taken.place
  ), logged AS (
    INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, attempt, at)
    SELECT moved.id, moved.version, 'PENDING', 'PROCESSING', actor_, moved.attempt, now_ FROM moved
  )
  SELECT m.id, m.status, {content: m.NAME}, m.created_at, m.updated_at, m.version, m.attempt, m.expires_at,
    m.last_error, m.begun, m.token
  FROM moved AS m ORDER BY m.place;
END
$$;

-- Complete claims that have not expired, and return the rows of the history, with the place of each claim in the
-- arguments. The actor defaults to the worker of each claim. If an operation was done before, return the row that it wrote
-- then. *metadata* is null, or an array with the new metadata of each track as an object, or null to keep it.
CREATE FUNCTION audiocatalog_complete_v{version}(
  tracks uuid[], tokens bigint[], operations uuid[], actor_ text, metadata jsonb
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
    CASE
      WHEN metadata IS NULL THEN NULL
      WHEN jsonb_typeof(metadata) <> 'array' THEN 'metadata'
      WHEN jsonb_array_length(metadata) <> cardinality(tracks) THEN 'metadata'
    END
  );
  now_ timestamptz;
  completed bigint;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM audio_tracks AS t WHERE t.id = ANY (tracks) ORDER BY t.id FOR NO KEY UPDATE;
  now_ := clock_timestamp();
  IF metadata IS NOT NULL THEN
    UPDATE audio_tracks AS t
    SET {metadata: NAME = m.NAME}
    FROM unnest(tracks, tokens) WITH ORDINALITY AS asked (track_id, token, place)
    JOIN audio_track_tasks AS k ON k.track_id = asked.track_id AND k.token = asked.token
    CROSS JOIN LATERAL jsonb_to_record(metadata -> (asked.place - 1)::integer) AS m (
      {metadata: NAME TYPE}
    )
    WHERE t.id = asked.track_id AND (k.expires_at > now_) IS TRUE
      AND jsonb_typeof(metadata -> (asked.place - 1)::integer) = 'object';
  END IF;
  RETURN QUERY
  WITH held AS (
    DELETE FROM audio_track_tasks AS k
    USING unnest(tracks, tokens, operations) WITH ORDINALITY AS asked (track_id, token, operation_id, place)
    WHERE k.track_id = asked.track_id AND k.token = asked.token AND (k.expires_at > now_) IS TRUE
    RETURNING asked.place, k.track_id, asked.operation_id, k.attempts + (NOT k.begun)::integer AS attempt,
      coalesce(actor_, k.worker) AS actor
  ), moved AS (
    UPDATE audio_tracks AS t SET status = 'COMPLETED', version = t.version + 1, updated_at = now()
    FROM held WHERE t.id = held.track_id
    RETURNING held.place, t.id, t.version, held.operation_id, held.attempt, held.actor
  ), logged AS (
    INSERT INTO audio_track_status_changes
      (track_id, version, from_status, to_status, actor, operation_id, attempt, at)
    SELECT moved.id, moved.version, 'PROCESSING', 'COMPLETED', moved.actor, moved.operation_id, moved.attempt, now_
    FROM moved
  )
  SELECT moved.place, moved.id, moved.version::integer, 'PROCESSING', 'COMPLETED', moved.actor::text, NULL::text,
    moved.operation_id, moved.attempt, now_
  FROM moved;
  GET DIAGNOSTICS completed = ROW_COUNT;
  IF completed < cardinality(tracks) THEN
    RETURN QUERY SELECT * FROM audiocatalog_answers_v1(tracks, operations, now_);
  END IF;
END
$$;
