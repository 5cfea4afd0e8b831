-- How many tracks are saved at once: a batch is copied into a table of the session, and stored from there.
--
-- That table is the owner's. Of a caller's own making it could be a view, whose functions would run with the owner's
-- rights. So one function makes it, callers may do nothing but add rows, and the other one looks whose it is.

-- Make the table for the batches of a transaction, with which it ends. It is made once: until then, each table keeps locks
-- of which the server has some thousands, for all its sessions together.
CREATE FUNCTION audiocatalog_stage_v{version}() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  IF to_regclass('pg_temp.audiocatalog_stage') IS NOT NULL THEN
    RETURN; -- Whose it is, the other function asks.
  END IF;
  CREATE TEMPORARY TABLE audiocatalog_stage (
    place integer NOT NULL, round integer NOT NULL, id uuid NOT NULL, status text NOT NULL, {content: NAME TYPE}
  ) ON COMMIT DROP;
  GRANT INSERT ON pg_temp.audiocatalog_stage TO PUBLIC;
END
$$;

-- Store the batch, and return the places of the records by what became of them: a track was inserted, or its content was
-- replaced, or the same content was there, or other content was there, at a version, and was left, for it is only
-- replaced where that is asked for. Each id stands once in a round, and what comes in a later round is stored later.
--
-- Rows are written in the order of their ids, so that no two batches wait for each other in a circle. What is there
-- already is not locked. A track that somebody else saves at the same moment is not seen at first, and looked at again.
--
-- The table of the batch has no statistics, so that a plan would expect few rows in it: they are sorted and hashed in
-- memory, tracks are looked up in the index, and nothing is compared row by row.
CREATE FUNCTION audiocatalog_load_v{version}(
  replacing boolean, who text, why text, wake boolean,
  OUT inserted integer[], OUT updated integer[], OUT same integer[], OUT other integer[], OUT other_versions integer[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET jit = off SET work_mem = '64MB'
SET enable_seqscan = off SET enable_nestloop = off
AS $$
DECLARE
  wrong text := CASE
    WHEN replacing IS NULL THEN 'replacing' WHEN who IS NULL THEN 'who' WHEN wake IS NULL THEN 'wake'
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
        -- One row at most, by its id: this join must never read the tracks from end to end.
        LEFT JOIN LATERAL (SELECT * FROM audio_tracks AS t WHERE t.id = s.id LIMIT 1) AS t ON true
        -- Not = ANY: that would look through the array for each row.
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
        SELECT stored.id, 1, stored.status, who, why FROM stored WHERE stored.version = 1
      ), edited AS (
        INSERT INTO audio_track_edits (track_id, version, actor, reason)
        SELECT stored.id, stored.version, who, why FROM stored WHERE stored.version > 1
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
      IF wake AND batch.waiting > 0 THEN
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
