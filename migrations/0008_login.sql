-- Logging in: passwords, who a provider's people are here, sessions, and logins that are under way. All of it is
-- management's own: no principal reads any of it, whatever the first wall says. What somebody holds is stored as its
-- SHA-256 only.

-- Argon2id, as a PHC string. By uid: who has the name of somebody that was deleted does not have the password.
CREATE TABLE passwords (
    user_uid uuid PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    hash text NOT NULL,
    set_at timestamptz NOT NULL
);
CALL wall('passwords');

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    sha256 bytea NOT NULL UNIQUE,
    user_uid uuid NOT NULL,
    -- How the person came in; `device` is a command line that somebody with a session has let in.
    method text NOT NULL CHECK (method IN ('password', 'oidc', 'device')),
    -- What the provider says that the person belongs to.
    groups text[] NOT NULL,
    source text NOT NULL,
    agent text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX sessions_by_user ON sessions (user_uid);
CALL wall('sessions');

-- Which user a person of a provider is.
CREATE TABLE identities (
    organization text NOT NULL REFERENCES organizations (name),
    issuer text NOT NULL,
    subject text NOT NULL,
    user_uid uuid NOT NULL,
    PRIMARY KEY (organization, issuer, subject)
);
CALL wall('identities');

-- Logins that a browser has begun at the provider. Each is taken once, by whichever replica it comes back to.
CREATE TABLE login_attempts (
    state_sha256 bytea PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    -- Where the browser wanted to go.
    return_to text NOT NULL,
    expires_at timestamptz NOT NULL
);
CALL wall('login_attempts');

-- Command lines that wait for somebody to let them in (RFC 8628).
CREATE TABLE device_codes (
    device_sha256 bytea PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    user_code_sha256 bytea NOT NULL UNIQUE,
    source text NOT NULL,
    agent text NOT NULL,
    expires_at timestamptz NOT NULL,
    interval_s int NOT NULL,
    polled_at timestamptz,
    state text NOT NULL CHECK (state IN ('waiting', 'granted', 'denied')),
    -- Of whoever has let it in.
    user_uid uuid,
    groups text[],
    CHECK ((state = 'granted') = (user_uid IS NOT NULL) AND (user_uid IS NULL) = (groups IS NULL))
);
CALL wall('device_codes');

-- As `act_by_token`, which older code goes on calling: whose token or session that is, and for the rest of the
-- transaction the principal, if it is valid. `groups` is null for a token.
CREATE FUNCTION act_by_credential(given bytea)
    RETURNS TABLE (credential uuid, user_uid uuid, expires_at timestamptz, revoked_at timestamptz, groups text[])
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 AS $$
BEGIN
    SELECT t.id, t.user_uid, t.expires_at, t.revoked_at INTO credential, user_uid, expires_at, revoked_at
        FROM tokens t WHERE t.sha256 = given AND t.organization = tombolo_organization();
    IF NOT FOUND THEN
        SELECT s.id, s.user_uid, s.expires_at, s.revoked_at, s.groups
            INTO credential, user_uid, expires_at, revoked_at, groups
            FROM sessions s WHERE s.sha256 = given AND s.organization = tombolo_organization();
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF revoked_at IS NULL AND (expires_at IS NULL OR now() < expires_at) THEN
        PERFORM set_config('tombolo.principal', user_uid::text, true);
    END IF;
    RETURN NEXT;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION act_by_credential(bytea) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION act_by_credential(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION act_by_credential(bytea) TO tombolo_app;

-- Whether a token or session still holds, for whoever issues something with it: a principal reads no session.
CREATE FUNCTION is_unrevoked(given uuid) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN EXISTS (SELECT FROM tokens t
                   WHERE t.id = given AND t.organization = tombolo_organization() AND t.revoked_at IS NULL)
        OR EXISTS (SELECT FROM sessions s
                   WHERE s.id = given AND s.organization = tombolo_organization() AND s.revoked_at IS NULL);
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION is_unrevoked(uuid) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION is_unrevoked(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION is_unrevoked(uuid) TO tombolo_app, tombolo_system;
