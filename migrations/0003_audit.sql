-- The record in monthly partitions, with keys that its pages are found by, signed checkpoints, and what retention
-- leaves behind. Postgres 14 and later, no extension.

-- The end of each chain now has a time as well: the next record is later, so that a chain is in order of time too and
-- a month that is dropped is always the beginning of what is left.
ALTER TABLE organizations ADD COLUMN audit_time timestamptz NOT NULL DEFAULT to_timestamp(0);
ALTER TABLE denial_heads ADD COLUMN time timestamptz NOT NULL DEFAULT to_timestamp(0);
UPDATE organizations o SET audit_time =
    coalesce((SELECT max(time) FROM audit a WHERE a.organization = o.name AND a.chain = 'writes'), audit_time);
UPDATE denial_heads h SET time =
    coalesce((SELECT max(a.time) FROM audit a WHERE a.organization = h.organization AND a.chain = 'denials'), h.time);

ALTER TABLE audit RENAME TO audit_unpartitioned;
ALTER INDEX audit_pkey RENAME TO audit_unpartitioned_pkey;
DROP INDEX audit_by_time;

-- The columns behind `hash` repeat parts of `record` for the search; the verifier holds them equal. A key is the
-- first four bytes of the SHA-256 of a text: short, so that indexes are, and compared by an operator that row-level
-- security lets an index use. Whatever a key finds is compared with the text itself.
CREATE TABLE audit (
    organization text NOT NULL REFERENCES organizations (name),
    chain text NOT NULL CHECK (chain IN ('writes', 'denials')),
    sequence bigint NOT NULL,
    record bytea NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    time timestamptz NOT NULL,
    realm text GENERATED ALWAYS AS (realm_of(name)) STORED NOT NULL,
    actor text NOT NULL,
    verb text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    outcome text NOT NULL,
    actor_key int NOT NULL,
    -- Of organization, kind, verb and outcome together.
    class_key int NOT NULL,
    -- Of the ancestors of the name, itself included, by their depth; the organization is the first and has none.
    node2_key int,
    node3_key int,
    node4_key int,
    node5_key int,
    PRIMARY KEY (organization, chain, sequence, time)
) PARTITION BY RANGE (time);

-- Each filter and each pair of filters walks one of these from its newest entry, and ends with its page.
CREATE INDEX audit_by_time ON audit (organization, time);
CREATE INDEX audit_by_class ON audit (class_key, time);
CREATE INDEX audit_by_actor ON audit (actor_key, time);
CREATE INDEX audit_by_actor_class ON audit (actor_key, class_key, time);
CREATE INDEX audit_by_node2 ON audit (node2_key, time) WHERE node2_key IS NOT NULL;
CREATE INDEX audit_by_node2_class ON audit (node2_key, class_key, time) WHERE node2_key IS NOT NULL;
CREATE INDEX audit_by_node2_actor ON audit (node2_key, actor_key, time) WHERE node2_key IS NOT NULL;
CREATE INDEX audit_by_node3 ON audit (node3_key, time) WHERE node3_key IS NOT NULL;
CREATE INDEX audit_by_node3_class ON audit (node3_key, class_key, time) WHERE node3_key IS NOT NULL;
CREATE INDEX audit_by_node4 ON audit (node4_key, time) WHERE node4_key IS NOT NULL;
CREATE INDEX audit_by_node4_class ON audit (node4_key, class_key, time) WHERE node4_key IS NOT NULL;
CREATE INDEX audit_by_node5 ON audit (node5_key, time) WHERE node5_key IS NOT NULL;

-- The classes that were ever recorded, so that a kind, a verb or an outcome is a short list of class keys.
CREATE TABLE audit_classes (
    organization text NOT NULL REFERENCES organizations (name),
    kind text NOT NULL,
    verb text NOT NULL,
    outcome text NOT NULL,
    class_key int NOT NULL,
    PRIMARY KEY (organization, kind, verb, outcome)
);

-- The words of each record as keys, for free text: an array, which an index of Postgres' own finds many words in at
-- once. Row-level security lets no such index be used by those whom it holds, so that `audit_places` asks it for them, and
-- answers with places and nothing else: who may read a record is decided on `audit`.
CREATE TABLE audit_words (
    organization text NOT NULL,
    chain text NOT NULL,
    sequence bigint NOT NULL,
    time timestamptz NOT NULL,
    words int[] NOT NULL
) PARTITION BY RANGE (time);
CREATE INDEX audit_words_by_word ON audit_words USING gin (words);

-- What the keepers of the record have signed, in the order of their numbers: checkpoints, and the boundaries that
-- retention has left.
CREATE TABLE audit_statements (
    organization text NOT NULL REFERENCES organizations (name),
    number bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('checkpoint', 'boundary')),
    -- The sequences that it speaks of, to be found by.
    writes bigint NOT NULL,
    denials bigint NOT NULL,
    statement text NOT NULL,
    key text NOT NULL,
    signature bytea NOT NULL,
    PRIMARY KEY (organization, number)
);

-- Every key that has signed, by the first 16 hexadecimal digits of the SHA-256 of its public half.
CREATE TABLE audit_keys (
    organization text NOT NULL REFERENCES organizations (name),
    id text NOT NULL,
    public_key bytea NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (organization, id)
);

-- How far each place outside of the system has been sent the statements.
CREATE TABLE audit_deliveries (
    organization text NOT NULL REFERENCES organizations (name),
    target text NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (organization, target)
);

-- The places of records that have all those words, of one stretch of time, behind a place and newest first.
CREATE FUNCTION audit_places(
        given int[], since timestamptz, until timestamptz, at_time timestamptz, at_chain text, at_sequence bigint, most int)
    RETURNS TABLE (chain text, sequence bigint, "time" timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET enable_seqscan = off AS $$
    SELECT w.chain, w.sequence, w.time FROM audit_words w
    WHERE w.organization = tombolo_organization() AND w.words @> given AND w.time >= since AND w.time < until
        AND w.time <= at_time AND (w.time, w.chain, w.sequence) < (at_time, at_chain, at_sequence)
    ORDER BY w.time DESC, w.chain DESC, w.sequence DESC
    LIMIT most
$$;

-- Months from that of `first` to that of `last`. Whoever needs one calls it ahead of time; creating what exists is
-- nothing. A partition is reached through its table only, whose policies hold.
CREATE FUNCTION audit_add_partitions(first timestamptz, last timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month timestamp := date_trunc('month', first AT TIME ZONE 'UTC');
    parent text;
    part text;
BEGIN
    WHILE month <= last AT TIME ZONE 'UTC' LOOP
        FOREACH parent IN ARRAY ARRAY['audit', 'audit_words'] LOOP
            part := parent || to_char(month, '"_"YYYY"_"MM');
            IF to_regclass(format('%I', part)) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, parent,
                    month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
                EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
                EXECUTE format('CREATE POLICY owner ON %I TO CURRENT_USER USING (true)', part);
            END IF;
        END LOOP;
        month := month + interval '1 month';
    END LOOP;
END
$$;

-- Drops the month that begins at `first`, unless another organization has records in it.
CREATE FUNCTION audit_drop_partition(first timestamptz) RETURNS boolean
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
    RETURN true;
END
$$;

SELECT audit_add_partitions(
    least(now(), (SELECT min(time) FROM audit_unpartitioned)), now() + interval '3 months');

CREATE FUNCTION pg_temp.audit_key(given text) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$ SELECT ('x' || left(encode(sha256(convert_to(given, 'UTF8')), 'hex'), 8))::bit(32)::int $$;
CREATE FUNCTION pg_temp.audit_node_key(name text, depth int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_temp.audit_key(array_to_string(segments[1:2 * depth], '/'))
    FROM string_to_array(name, '/') AS segments
    WHERE cardinality(segments) >= 2 * depth
$$;

INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome,
    actor_key, class_key, node2_key, node3_key, node4_key, node5_key)
SELECT organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome,
    pg_temp.audit_key(organization || E'\n' || actor),
    pg_temp.audit_key(organization || E'\n' || kind || E'\n' || verb || E'\n' || outcome),
    pg_temp.audit_node_key(name, 2), pg_temp.audit_node_key(name, 3),
    pg_temp.audit_node_key(name, 4), pg_temp.audit_node_key(name, 5)
FROM audit_unpartitioned,
LATERAL (SELECT CASE substring(name FROM '([^/]*)/[^/]*$')
    WHEN 'organizations' THEN 'Organization'
    WHEN 'clusters' THEN 'Cluster'
    WHEN 'users' THEN 'User'
    WHEN 'tenants' THEN 'Tenant'
    WHEN 'workspaces' THEN 'Workspace'
    WHEN 'trafficgroups' THEN 'TrafficGroup'
    WHEN 'gatewaygroups' THEN 'GatewayGroup'
    WHEN 'securitygroups' THEN 'SecurityGroup'
    WHEN 'gateways' THEN 'Gateway'
    WHEN 'serviceroutes' THEN 'ServiceRoute'
    WHEN 'bindings' THEN 'Binding'
    ELSE '' END) AS of_name (kind);

INSERT INTO audit_classes
SELECT DISTINCT organization, kind, verb, outcome, class_key FROM audit;

INSERT INTO audit_words
SELECT organization, chain, sequence, time,
    ARRAY(SELECT DISTINCT pg_temp.audit_key(left(word, 64))
        FROM unnest(ARRAY['[^[:alnum:]-]+', '[^[:alnum:]]+']) AS boundary,
            regexp_split_to_table(lower(convert_from(record, 'UTF8')), boundary) AS word
        WHERE word <> '')
FROM audit_unpartitioned;

DROP TABLE audit_unpartitioned;

-- Everybody appends what they have done; nobody changes a record. As in 0002, for the table that took its place.
CALL wall('audit');
CALL wall_reads('audit');
CALL wall_writes('audit', 'INSERT');
CREATE POLICY own ON audit FOR INSERT TO tombolo_app WITH CHECK (
    organization = tombolo_organization()
    AND name = (SELECT u.name FROM resources u WHERE u.uid = tombolo_principal()));
CALL wall('audit_words');
GRANT INSERT ON audit_words TO tombolo_app;
CREATE POLICY appends ON audit_words FOR INSERT TO tombolo_app
    WITH CHECK (organization = tombolo_organization() AND tombolo_principal() IS NOT NULL);
REVOKE UPDATE, DELETE ON audit, audit_words FROM tombolo_system;
CALL wall('audit_classes');
GRANT SELECT, INSERT ON audit_classes TO tombolo_app;
CREATE POLICY everybody ON audit_classes TO tombolo_app
    USING (organization = tombolo_organization() AND tombolo_principal() IS NOT NULL);
CALL wall('audit_statements');
CALL wall('audit_keys');
CALL wall('audit_deliveries');
GRANT UPDATE (audit_time) ON organizations TO tombolo_app;

DO $$
DECLARE
    called text;
BEGIN
    FOREACH called IN ARRAY ARRAY[
        'audit_places(int[], timestamptz, timestamptz, timestamptz, text, bigint, int)',
        'audit_add_partitions(timestamptz, timestamptz)',
        'audit_drop_partition(timestamptz)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', called, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', called);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tombolo_system', called);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION audit_places TO tombolo_app;
