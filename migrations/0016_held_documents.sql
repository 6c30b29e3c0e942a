-- `look_up` for those who hold resources in memory: `held` says for each which one, as `<epoch>/<etag>`, and where the
-- database has the same its document is left out (null). What stands next to each other with the same credential is
-- looked up once. Older code goes on calling the one without `held`.
CREATE FUNCTION look_up(given bytea[], names text[], held text[])
    RETURNS TABLE (
        nth int,
        seen_epoch bigint, seen_revision bigint,
        credential uuid, user_uid uuid, expires_at timestamptz, revoked_at timestamptz, groups text[],
        realms text[],
        name text, uid uuid, document jsonb, etag text, revision bigint, created_at timestamptz, updated_at timestamptz,
        managed_by text, managed_revision bigint, owner uuid)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- Whose principal the statement works for at present.
    acting bytea;
    known boolean;
BEGIN
    SELECT o.epoch, o.revision INTO seen_epoch, seen_revision
        FROM organizations o WHERE o.name = tombolo_organization();
    FOR place IN 1 .. cardinality(given) LOOP
        nth := place;
        IF acting IS DISTINCT FROM given[place] THEN
            -- Nobody until this credential proves good: what the one before it sees is not for this one.
            PERFORM set_config('tombolo.principal', '', true);
            SELECT a.credential, a.user_uid, a.expires_at, a.revoked_at, a.groups
                INTO credential, user_uid, expires_at, revoked_at, groups FROM act_by_credential(given[place]) a;
            known := FOUND;
            acting := given[place];
            realms := ARRAY(SELECT r.realm FROM realms r);
        END IF;
        CONTINUE WHEN NOT known;
        IF names[place] IS NULL THEN
            name := NULL;
        ELSE
            SELECT r.name, r.uid, CASE WHEN seen_epoch || '/' || r.etag = held[place] THEN NULL ELSE r.document END,
                    r.etag, r.revision, r.created_at, r.updated_at, r.managed_by, r.managed_revision, r.owner
                INTO name, uid, document, etag, revision, created_at, updated_at, managed_by, managed_revision, owner
                FROM resources r WHERE r.name = names[place];
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION look_up(bytea[], text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION look_up(bytea[], text[], text[]) TO tombolo_app;
