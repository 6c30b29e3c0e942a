-- What was made with a credential ends with it. A session that let a command line in is known to the code that waits, and
-- to the session that comes of it; tokens know theirs already. Older code leaves it null, and such a code lets nobody in.
ALTER TABLE sessions ADD COLUMN issued_by uuid;
ALTER TABLE device_codes ADD COLUMN granted_by uuid;

-- Ends what its holder has made for itself with credentials that are revoked, and what came of that: sessions, tokens, and
-- command lines that were let in and have not asked since. All but `kept`, which the caller is using. A principal, who
-- reads no session, may ask for it: what it names is revoked already, which is where it is decided who may do that.
CREATE FUNCTION revoke_made_with(holder uuid, given uuid[], kept uuid, moment timestamptz)
    RETURNS TABLE (kind text, made uuid) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    ended uuid[];
BEGIN
    WITH RECURSIVE held AS (
        SELECT t.id, t.issued_by, t.revoked_at FROM tokens t
            WHERE t.user_uid = holder AND t.organization = tombolo_organization()
        UNION ALL
        SELECT s.id, s.issued_by, s.revoked_at FROM sessions s
            WHERE s.user_uid = holder AND s.organization = tombolo_organization()
    ), line AS (
        SELECT h.id FROM held h WHERE h.id = ANY (given) AND h.revoked_at IS NOT NULL
        UNION
        SELECT h.id FROM held h JOIN line l ON h.issued_by = l.id WHERE h.id IS DISTINCT FROM kept
    )
    SELECT array_agg(l.id) INTO ended FROM line l;
    RETURN QUERY UPDATE sessions s SET revoked_at = moment
        WHERE s.id = ANY (ended) AND s.revoked_at IS NULL AND s.expires_at > moment RETURNING 'session', s.id;
    RETURN QUERY UPDATE tokens t SET revoked_at = moment
        WHERE t.id = ANY (ended) AND t.revoked_at IS NULL
        RETURNING CASE WHEN t.public_key IS NULL THEN 'token' ELSE 'key' END, t.id;
    RETURN QUERY DELETE FROM device_codes d
        WHERE d.granted_by = ANY (ended) AND d.organization = tombolo_organization()
        RETURNING 'command line let in by session', d.granted_by;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION revoke_made_with(uuid, uuid[], uuid, timestamptz) SET search_path = %I, pg_temp',
        current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION revoke_made_with(uuid, uuid[], uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION revoke_made_with(uuid, uuid[], uuid, timestamptz) TO tombolo_app, tombolo_system;
