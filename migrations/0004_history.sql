-- What each revision did to each resource, for ever: the tree can be read as it was at any revision. Names compare as
-- bytes, so that a node and all below it are one range of the key.
CREATE TABLE history (
    organization text NOT NULL REFERENCES organizations (name),
    name text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    realm text GENERATED ALWAYS AS (realm_of(name)) STORED NOT NULL,
    uid uuid NOT NULL,
    action text NOT NULL CHECK (action IN ('create', 'update', 'delete')),
    actor text NOT NULL,
    time timestamptz NOT NULL,
    -- As the revision left the resource; NULL where it deleted it.
    document jsonb,
    etag text,
    created_at timestamptz,
    PRIMARY KEY (organization, name, revision),
    CHECK ((action = 'delete') = (document IS NULL)),
    CHECK ((document IS NULL) = (etag IS NULL) AND (document IS NULL) = (created_at IS NULL))
);
CREATE INDEX history_by_revision ON history (organization, revision);

CALL wall('history');
CALL wall_reads('history');
CALL wall_writes('history', 'INSERT');
CALL wall_published('history');

CREATE FUNCTION history_only_grows() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the history only grows'; END $$;
CREATE TRIGGER history_only_grows BEFORE UPDATE OR DELETE ON history
    FOR EACH STATEMENT EXECUTE FUNCTION history_only_grows();

-- The first revision that can be read. What was overwritten before there was a history is gone.
ALTER TABLE organizations ADD COLUMN history_since bigint NOT NULL DEFAULT 0;
UPDATE organizations SET history_since = revision;
INSERT INTO history (organization, name, revision, uid, action, actor, time, document, etag, created_at)
    SELECT organization, name, revision, uid, CASE WHEN created_at = updated_at THEN 'create' ELSE 'update' END,
        'system', updated_at, document, etag, created_at
    FROM resources;

-- What clusters have reported, by the hash of it, and since when. Bounded by management: see report_history.rs.
CREATE TABLE report_bodies (
    organization text NOT NULL REFERENCES organizations (name),
    hash bytea NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (organization, hash)
);
CREATE TABLE report_times (
    organization text NOT NULL,
    cluster text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (organization, cluster, since),
    FOREIGN KEY (organization, hash) REFERENCES report_bodies (organization, hash)
);
CREATE INDEX report_times_by_hash ON report_times (organization, hash);
CALL wall('report_bodies');
CALL wall_published('report_bodies');
CALL wall('report_times');
CALL wall_published('report_times');
