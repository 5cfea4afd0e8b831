-- Functions that save many tracks at once: a batch is copied into a temporary table, and stored from there.
--
-- The owner of the functions owns that table. A caller could make a view of the same name instead, and functions in the
-- view would run with the owner's rights. So one function makes the table, callers may only insert rows, and the other
-- function checks the table's owner.

-- Make the temporary table, unless the transaction has one; COMMIT drops it. One table serves all batches of a
-- transaction, because each table holds locks until COMMIT, and all sessions share a few thousand locks.
CREATE FUNCTION audiocatalog_stage_v{version}() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  IF to_regclass('pg_temp.audiocatalog_stage') IS NOT NULL THEN
    RETURN; -- audiocatalog_load checks its owner.
  END IF;
  CREATE TEMPORARY TABLE audiocatalog_stage (
    place integer NOT NULL, round integer NOT NULL, id uuid NOT NULL, status text NOT NULL, {content: NAME TYPE}
  ) ON COMMIT DROP;
  GRANT INSERT ON pg_temp.audiocatalog_stage TO PUBLIC;
END
$$;

-- Store the batch, and return the places of the records by their outcome:
--   inserted: the track is new.
--   updated: the content of the track was replaced.
--   same: the track had the same content.
--   other: the track had other content, which was kept because *replacing* is false; *other_versions* has the versions.
-- Each id occurs once in a round. Later rounds are stored later.
--
-- Rows are written in the order of their ids, so two batches cannot deadlock. Existing tracks are not locked. A track that
-- another transaction saves at the same moment is invisible at first, so it is looked up again.
--
-- The temporary table has no statistics, so the planner expects few rows in it. The settings of the function make it sort
-- and hash the batch in memory and look tracks up in the index, instead of comparing every pair of rows.
CREATE FUNCTION audiocatalog_load_v{version}(
  replacing boolean, actor_ text, reason_ text, notify boolean,
  OUT inserted integer[], OUT updated integer[], OUT same integer[], OUT other integer[], OUT other_versions integer[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET jit = off SET work_mem = '64MB'
SET enable_seqscan = off SET enable_nestloop = off
AS $$
DECLARE
  wrong text := CASE
    WHEN replacing IS NULL THEN 'replacing' WHEN actor_ IS NULL THEN 'actor_' WHEN notify IS NULL THEN 'notify'
  END;
  last_round integer;
  unseen integer[];
  batch record;
BEGIN
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  PERFORM 1 FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
  WHERE pg_class.oid = to_regclass('pg_temp.audiocatalog_stage') AND rolname = current_user AND relkind = 'r';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no batch is staged' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT coalesce(max(round), 0), CASE WHEN min(round) < 0 OR max(round) >= count(*) THEN 'round' END
  INTO last_round, wrong FROM pg_temp.audiocatalog_stage;
  IF wrong IS NOT NULL THEN
    PERFORM audiocatalog_refuse_v1(wrong);
  END IF;
  FOR this_round IN 0..last_round LOOP
    unseen := NULL;
    FOR again IN 1..20 LOOP
      WITH asked AS MATERIALIZED (
        SELECT s.*, t.id IS NOT NULL AS known, t.version AS known_version,
          ({content: t.NAME})
            IS NOT DISTINCT FROM
              ({content: s.NAME}) AS same
        FROM pg_temp.audiocatalog_stage AS s
        -- LIMIT 1 forces an index lookup by id: this join must never scan all tracks.
        LEFT JOIN LATERAL (SELECT * FROM audio_tracks AS t WHERE t.id = s.id LIMIT 1) AS t ON true
        -- `= ANY` would search the array for each row.
        WHERE s.round = this_round AND (unseen IS NULL OR s.place IN (SELECT unnest(unseen)))
      ), stored AS (
        INSERT INTO audio_tracks AS t (id, status, {content: NAME}, updated_at)
        SELECT a.id, a.status, {content: a.NAME}, now()
        FROM asked AS a WHERE NOT a.known OR (replacing AND NOT a.same)
        ORDER BY a.id
        ON CONFLICT (id) DO UPDATE
        SET {content: NAME = excluded.NAME}, version = t.version + 1,
            updated_at = excluded.updated_at
        WHERE replacing
          AND ({content: t.NAME})
            IS DISTINCT FROM
              ({content: excluded.NAME})
        RETURNING t.id, t.status, t.version
      ), logged AS (
        INSERT INTO audio_track_status_changes (track_id, version, to_status, actor, reason)
        SELECT stored.id, 1, stored.status, actor_, reason_ FROM stored WHERE stored.version = 1
      ), edited AS (
        INSERT INTO audio_track_edits (track_id, version, actor, reason)
        SELECT stored.id, stored.version, actor_, reason_ FROM stored WHERE stored.version > 1
      ), waiting AS (
        INSERT INTO audio_track_tasks (track_id, status, since, ready_at)
        SELECT stored.id, stored.status, clock_timestamp(), now() FROM stored
        WHERE stored.version = 1 AND stored.status <> 'COMPLETED'
        RETURNING 1
      )
      SELECT array_agg(a.place) FILTER (WHERE stored.version = 1) AS inserted,
        array_agg(a.place) FILTER (WHERE stored.version > 1) AS updated,
        array_agg(a.place) FILTER (WHERE stored.id IS NULL AND a.known AND a.same) AS same,
        array_agg(a.place) FILTER (WHERE stored.id IS NULL AND a.known AND NOT a.same AND NOT replacing) AS other,
        array_agg(a.known_version::integer) FILTER (WHERE stored.id IS NULL AND a.known AND NOT a.same AND NOT replacing)
          AS other_versions,
        array_agg(a.place) FILTER (WHERE stored.id IS NULL AND (NOT a.known OR (replacing AND NOT a.same))) AS unseen,
        (SELECT count(*) FROM waiting) AS waiting
      INTO batch
      FROM asked AS a LEFT JOIN stored ON stored.id = a.id;
      inserted := inserted || batch.inserted;
      updated := updated || batch.updated;
      same := same || batch.same;
      other := other || batch.other;
      other_versions := other_versions || batch.other_versions;
      unseen := batch.unseen;
      IF notify AND batch.waiting > 0 THEN
        PERFORM pg_notify('audiocatalog_pending', '');
      END IF;
      EXIT WHEN unseen IS NULL;
    END LOOP;
    IF unseen IS NOT NULL THEN
      RAISE EXCEPTION 'others write the same tracks' USING ERRCODE = 'serialization_failure';
    END IF;
  END LOOP;
  TRUNCATE pg_temp.audiocatalog_stage;
END
$$;
