-- What a service account signs lets in once. Each assertion that has done so is kept, as a hash of what was signed, until it
-- would be good for nothing anyway: so many as the rate of requests lets through in the few minutes that one may live.
CREATE TABLE spent_assertions (
    organization text NOT NULL REFERENCES organizations (name),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (organization, sha256)
);
CREATE INDEX spent_assertions_by_end ON spent_assertions (expires_at);
CALL wall('spent_assertions');

-- Whether it was not spent before. Asked before there is a principal, and by nobody who has not shown the signature. It also
-- forgets a few that have ended: more than it adds, so that they do not pile up. An hour late, as clocks may differ.
CREATE FUNCTION spend_assertion(given bytea, ends timestamptz) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM spent_assertions WHERE (organization, sha256) IN (
        SELECT s.organization, s.sha256 FROM spent_assertions s WHERE s.expires_at < now() - interval '1 hour'
        ORDER BY s.expires_at LIMIT 4 FOR UPDATE SKIP LOCKED);
    INSERT INTO spent_assertions (organization, sha256, expires_at) VALUES (tombolo_organization(), given, ends)
        ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION spend_assertion(bytea, timestamptz) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION spend_assertion(bytea, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION spend_assertion(bytea, timestamptz) TO tombolo_app;
