-- `look_up` with one query for all that stands next to each other with the same credential. Postgres plans it once for
-- each connection: left to choose, it guessed that a plan for just that many places is worth making anew each time, and planning
-- them took longer than all the rest.
CREATE OR REPLACE FUNCTION look_up(given bytea[], names text[], held text[])
    RETURNS TABLE (
        nth int,
        seen_epoch bigint, seen_revision bigint,
        credential uuid, user_uid uuid, expires_at timestamptz, revoked_at timestamptz, groups text[],
        realms text[],
        name text, uid uuid, document jsonb, etag text, revision bigint, created_at timestamptz, updated_at timestamptz,
        managed_by text, managed_revision bigint, owner uuid)
    LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    place int := 1;
    -- Of those with the same credential as the one in this place.
    last int;
BEGIN
    SELECT o.epoch, o.revision INTO seen_epoch, seen_revision
        FROM organizations o WHERE o.name = tombolo_organization();
    WHILE place <= cardinality(given) LOOP
        last := place;
        WHILE given[last + 1] = given[place] LOOP
            last := last + 1;
        END LOOP;
        -- Nobody until this credential proves good: what the one before it sees is not for this one.
        PERFORM set_config('tombolo.principal', '', true);
        SELECT a.credential, a.user_uid, a.expires_at, a.revoked_at, a.groups
            INTO credential, user_uid, expires_at, revoked_at, groups FROM act_by_credential(given[place]) a;
        IF FOUND THEN
            realms := ARRAY(SELECT r.realm FROM realms r);
            IF last > place THEN
                -- `LIMIT` makes it one look into the index for each.
                RETURN QUERY SELECT n, seen_epoch, seen_revision, credential, user_uid, expires_at, revoked_at, groups,
                        realms, r.name, r.uid,
                        CASE WHEN seen_epoch || '/' || r.etag = held[n] THEN NULL ELSE r.document END,
                        r.etag, r.revision, r.created_at, r.updated_at, r.managed_by, r.managed_revision, r.owner
                    FROM generate_series(place, last) n
                        -- By name: another column of theirs must not stand for a variable of this function.
                        LEFT JOIN LATERAL (
                            SELECT f.name, f.uid, f.document, f.etag, f.revision, f.created_at, f.updated_at, f.managed_by,
                                f.managed_revision, f.owner
                            FROM resources f WHERE f.name = names[n] LIMIT 1
                        ) r ON true;
            ELSE
                -- Of one alone that is a third less work.
                nth := place;
                SELECT r.name, r.uid, CASE WHEN seen_epoch || '/' || r.etag = held[place] THEN NULL ELSE r.document END,
                        r.etag, r.revision, r.created_at, r.updated_at, r.managed_by, r.managed_revision, r.owner
                    INTO name, uid, document, etag, revision, created_at, updated_at, managed_by, managed_revision, owner
                    FROM resources r WHERE r.name = names[place];
                RETURN NEXT;
            END IF;
        END IF;
        place := last + 1;
    END LOOP;
END $$;
