-- Who calls and what it reads, for many requests in one statement: each credential in its turn, with the name that is
-- read with it, if one is. A row for each that somebody holds. It runs as who calls it, so that each resource is read
-- behind row-level security: as `tombolo_app`, for the principal of its own credential. That is why it is a loop. In one
-- query over all of them Postgres would ask once for whom it works.
CREATE FUNCTION look_up(given bytea[], names text[])
    RETURNS TABLE (
        nth int,
        -- What was committed when this was asked.
        seen_epoch bigint, seen_revision bigint,
        credential uuid, user_uid uuid, expires_at timestamptz, revoked_at timestamptz, groups text[],
        -- Those of which it sees rows; `*` is the whole organization.
        realms text[],
        -- Null where there is no such resource, or none for this principal.
        name text, uid uuid, document jsonb, etag text, revision bigint, created_at timestamptz, updated_at timestamptz,
        managed_by text, managed_revision bigint, owner uuid)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT o.epoch, o.revision INTO seen_epoch, seen_revision
        FROM organizations o WHERE o.name = tombolo_organization();
    FOR place IN 1 .. cardinality(given) LOOP
        nth := place;
        -- Nobody until this credential proves good: what the one before it sees is not for this one.
        PERFORM set_config('tombolo.principal', '', true);
        SELECT a.credential, a.user_uid, a.expires_at, a.revoked_at, a.groups
            INTO credential, user_uid, expires_at, revoked_at, groups FROM act_by_credential(given[place]) a;
        CONTINUE WHEN NOT FOUND;
        realms := ARRAY(SELECT r.realm FROM realms r);
        SELECT r.name, r.uid, r.document, r.etag, r.revision, r.created_at, r.updated_at, r.managed_by,
                r.managed_revision, r.owner
            INTO name, uid, document, etag, revision, created_at, updated_at, managed_by, managed_revision, owner
            FROM resources r WHERE r.name = names[place];
        RETURN NEXT;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION look_up(bytea[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION look_up(bytea[], text[]) TO tombolo_app;
