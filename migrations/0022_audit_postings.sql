-- Pages of the record are found by postings that are written behind the writes, a segment of a thousand records at a
-- time, in place of sixteen indexes that each write had to keep: with ten million records those took two fifths of a
-- write, and a page of two frequent filters still had to read hundreds of records of each. Since nothing of a segment
-- changes, it is compact: which records of it hold a term is a list or a bitmap, and several terms at once are the
-- intersection.

-- In the order in which older code locks them.
LOCK TABLE audit_words, audit IN ACCESS EXCLUSIVE MODE;
DROP INDEX audit_by_time, audit_by_class, audit_by_actor, audit_by_actor_class, audit_by_node2, audit_by_node2_class,
    audit_by_node2_actor, audit_by_node3, audit_by_node3_class, audit_by_node3_actor, audit_by_node4,
    audit_by_node4_class, audit_by_node4_actor, audit_by_node5, audit_by_node5_class, audit_by_node5_actor;
DROP INDEX audit_words_by_word;
-- Older code that runs beside newer code goes on to write these keys and words, so that no write fails; a later migration
-- drops them. Until it is gone, what it shows of the record is incomplete: its pages find nothing that newer code has
-- written, and its search no words.
ALTER TABLE audit ALTER COLUMN actor_key DROP NOT NULL, ALTER COLUMN class_key DROP NOT NULL;
TRUNCATE audit_words;

-- A segment is its rows with one `first`. Small segments are of 1,024 records, and 32 of them become a large one.
-- A month, which may be dropped, ends a segment.
CREATE TABLE audit_postings (
    organization text NOT NULL,
    chain text NOT NULL CHECK (chain IN ('writes', 'denials')),
    -- Of a small segment 0, of a large one 1.
    tier smallint NOT NULL,
    -- A term is in the bucket that the first bits of its key number; -1 is the directory of times.
    bucket int NOT NULL,
    -- Of the first record.
    time timestamptz NOT NULL,
    first bigint NOT NULL,
    -- Sequences from the first to the last.
    length int NOT NULL,
    entries bytea NOT NULL,
    PRIMARY KEY (organization, chain, tier, bucket, time, first)
) PARTITION BY RANGE (time);

-- The last record of each chain that is in a segment. Whoever makes a segment holds the row.
CREATE TABLE audit_indexed (
    organization text NOT NULL REFERENCES organizations (name),
    chain text NOT NULL CHECK (chain IN ('writes', 'denials')),
    sequence bigint NOT NULL,
    time timestamptz NOT NULL,
    PRIMARY KEY (organization, chain)
);

-- As in 0003, with the postings. Their entries are small, and packed already.
CREATE OR REPLACE FUNCTION audit_add_partitions(first timestamptz, last timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month timestamp := date_trunc('month', first AT TIME ZONE 'UTC');
    parent text;
    part text;
BEGIN
    WHILE month <= last AT TIME ZONE 'UTC' LOOP
        FOREACH parent IN ARRAY ARRAY['audit', 'audit_words', 'audit_postings'] LOOP
            part := parent || to_char(month, '"_"YYYY"_"MM');
            IF to_regclass(format('%I', part)) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, parent,
                    month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
                EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
                EXECUTE format('CREATE POLICY owner ON %I TO CURRENT_USER USING (true)', part);
                IF parent = 'audit_postings' THEN
                    EXECUTE format('ALTER TABLE %I ALTER entries SET STORAGE EXTERNAL, SET (toast_tuple_target = 8160)', part);
                END IF;
            END IF;
        END LOOP;
        month := month + interval '1 month';
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION audit_drop_partition(first timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    suffix text := to_char(first AT TIME ZONE 'UTC', '"_"YYYY"_"MM');
    shared boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE organization <> tombolo_organization())', 'audit' || suffix)
        INTO shared;
    IF shared THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', 'audit' || suffix);
    EXECUTE format('DROP TABLE %I', 'audit_words' || suffix);
    EXECUTE format('DROP TABLE %I', 'audit_postings' || suffix);
    RETURN true;
END
$$;

-- Some buckets of the newest segments of a tier that begin at a time or before. Postings say which records hold a term,
-- and nothing else: who may read a record is decided on `audit`.
CREATE FUNCTION audit_buckets(of_chain text, of_tier smallint, buckets int[], begins timestamptz, most int)
    RETURNS TABLE (bucket int, "time" timestamptz, first bigint, length int, entries bytea)
    LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT found.* FROM unnest(buckets) AS wanted (number) CROSS JOIN LATERAL (
        SELECT p.bucket, p.time, p.first, p.length, p.entries FROM audit_postings p
        WHERE p.organization = tombolo_organization() AND tombolo_principal() IS NOT NULL AND p.chain = of_chain
            AND p.tier = of_tier AND p.bucket = wanted.number AND p.time <= begins
        ORDER BY p.time DESC
        LIMIT most
    ) AS found;
END
$$;

-- The last sequence of each chain.
CREATE FUNCTION audit_ends() RETURNS TABLE (chain text, sequence bigint)
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT 'writes', audit_sequence FROM organizations WHERE name = tombolo_organization()
    UNION ALL
    SELECT 'denials', coalesce(
        (SELECT sequence FROM denial_heads WHERE organization = tombolo_organization()), 0)
$$;

SELECT audit_add_partitions(least(now(), min(month)), greatest(now() + interval '3 months', max(month)))
FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid, LATERAL (
    SELECT make_timestamptz(
        left(right(child.relname, 7), 4)::int, right(child.relname, 2)::int, 1, 0, 0, 0, 'UTC') AS month
) AS begins
WHERE inhparent = 'audit'::regclass;

CALL wall('audit_postings');
REVOKE UPDATE ON audit_postings FROM tombolo_system;
CALL wall('audit_indexed');
GRANT SELECT ON audit_indexed TO tombolo_app;
CREATE POLICY everybody ON audit_indexed FOR SELECT TO tombolo_app
    USING (organization = tombolo_organization() AND tombolo_principal() IS NOT NULL);

DO $$
DECLARE
    called text;
BEGIN
    FOREACH called IN ARRAY ARRAY[
        'audit_buckets(text, smallint, int[], timestamptz, int)',
        'audit_ends()',
        'audit_add_partitions(timestamptz, timestamptz)',
        'audit_drop_partition(timestamptz)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', called, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', called);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION audit_buckets, audit_ends TO tombolo_app;
GRANT EXECUTE ON FUNCTION audit_add_partitions, audit_drop_partition TO tombolo_system;
