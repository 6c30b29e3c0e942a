-- The second wall (docs/adr/0006): whatever the code in front of it lets through, a connection sees and changes only
-- rows of the realms of the principal for whom it works. `Store::begin_as` sets that principal.
--
-- Three roles, made before the migrations run. None of them owns a table or bypasses row-level security:
--   tombolo_app        works for one principal; without one it sees no row of anybody
--   tombolo_publisher  reads what is published, and nothing else
--   tombolo_system     management itself: bootstrap, joins, denials, reports, realms
-- The owner, who migrates, has a policy of its own on each table, so that data can be migrated and dumped, and older
-- code, which still works as the owner, goes on beside newer code.

-- The organization that a connection works for. The pool sets it when it connects.
CREATE FUNCTION tombolo_organization() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT current_setting('tombolo.organization', true) $$;

-- The uid of the principal that a transaction works for; NULL for nobody.
CREATE FUNCTION tombolo_principal() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('tombolo.principal', true), '')::uuid $$;

-- The tenancy of a name: its tenant, or the organization for what stands outside of tenants.
CREATE FUNCTION realm_of(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT split_part(name, '/', 1) || '/' || split_part(name, '/', 2)
          || CASE split_part(name, '/', 3) WHEN 'tenants' THEN '/tenants/' || split_part(name, '/', 4) ELSE '' END $$;

-- Who may read, and who may also write, in which realm. The realm `*` is the whole organization. Derived from the
-- bindings, in the transaction that changes them.
CREATE TABLE realms (
    organization text NOT NULL REFERENCES organizations (name),
    principal uuid NOT NULL,
    realm text NOT NULL,
    writes boolean NOT NULL,
    PRIMARY KEY (principal, realm)
);

-- What every table has: row-level security that also binds its owner, the owner's policy, and that of management
-- itself. The table has a column `organization`.
CREATE PROCEDURE wall(walled regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', walled);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', walled);
    EXECUTE format('CREATE POLICY owner ON %s TO CURRENT_USER USING (true)', walled);
    EXECUTE format('CREATE POLICY system ON %s TO tombolo_system USING (organization = tombolo_organization())', walled);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO tombolo_system', walled);
END $$;

-- A principal reads the rows of its realms. The table has a column `realm` too.
CREATE PROCEDURE wall_reads(walled regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT SELECT ON %s TO tombolo_app', walled);
    EXECUTE format('CREATE POLICY reads ON %s FOR SELECT TO tombolo_app USING (
        organization = tombolo_organization()
        AND ARRAY[realm, ''*''] && ARRAY(SELECT r.realm FROM realms r WHERE r.principal = tombolo_principal()))', walled);
END $$;

-- A principal may do that (INSERT, UPDATE, DELETE) to rows of the realms in which it may write.
CREATE PROCEDURE wall_writes(walled regclass, VARIADIC actions text[]) LANGUAGE plpgsql AS $$
DECLARE
    action text;
    clause text;
BEGIN
    FOREACH action IN ARRAY actions LOOP
        clause := CASE action WHEN 'INSERT' THEN 'WITH CHECK' ELSE 'USING' END;
        EXECUTE format('GRANT %s ON %s TO tombolo_app', action, walled);
        EXECUTE format('CREATE POLICY %s ON %s FOR %s TO tombolo_app %s (
            organization = tombolo_organization()
            AND ARRAY[realm, ''*''] && ARRAY(
                SELECT r.realm FROM realms r WHERE r.principal = tombolo_principal() AND r.writes))',
            lower(action) || 's', walled, action, clause);
    END LOOP;
END $$;

-- It is read for the feed and for the snapshot that writes start from.
CREATE PROCEDURE wall_published(walled regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT SELECT ON %s TO tombolo_publisher', walled);
    EXECUTE format('CREATE POLICY published ON %s FOR SELECT TO tombolo_publisher USING (organization = tombolo_organization())', walled);
END $$;

DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO tombolo_app, tombolo_publisher, tombolo_system', current_schema());
END $$;

CALL wall('realms');
GRANT SELECT ON realms TO tombolo_app;
CREATE POLICY own ON realms FOR SELECT TO tombolo_app USING (principal = tombolo_principal());

-- The head belongs to nobody in particular: every write moves it. Only forward, and only its numbers.
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON organizations TO CURRENT_USER USING (true);
CREATE POLICY system ON organizations TO tombolo_system USING (name = tombolo_organization());
CREATE POLICY reads ON organizations FOR SELECT TO tombolo_app USING (name = tombolo_organization());
CREATE POLICY writes ON organizations FOR UPDATE TO tombolo_app
    USING (name = tombolo_organization() AND tombolo_principal() IS NOT NULL);
CREATE POLICY published ON organizations FOR SELECT TO tombolo_publisher USING (name = tombolo_organization());
GRANT SELECT, INSERT, UPDATE ON organizations TO tombolo_system;
GRANT SELECT, UPDATE (epoch, revision, audit_sequence, audit_hash) ON organizations TO tombolo_app;
GRANT SELECT ON organizations TO tombolo_publisher;

ALTER TABLE resources
    ADD COLUMN realm text GENERATED ALWAYS AS (realm_of(name)) STORED NOT NULL,
    -- What a list lists: the name without its last segment.
    ADD COLUMN collection text GENERATED ALWAYS AS (regexp_replace(name, '/[^/]*$', '')) STORED NOT NULL;
-- Lists are in the order of bytes, whatever the collation of the database.
CREATE INDEX resources_by_collection ON resources (collection, name COLLATE "C");
CALL wall('resources');
CALL wall_reads('resources');
CALL wall_writes('resources', 'INSERT', 'UPDATE', 'DELETE');
CALL wall_published('resources');
-- A user exists for itself, also where it may not read the collection of users.
CREATE POLICY self ON resources FOR SELECT TO tombolo_app USING (uid = tombolo_principal());

ALTER TABLE tombstones ADD COLUMN realm text GENERATED ALWAYS AS (realm_of(name)) STORED NOT NULL;
CALL wall('tombstones');
CALL wall_reads('tombstones');
CALL wall_writes('tombstones', 'INSERT', 'UPDATE');
CALL wall_published('tombstones');

CALL wall('joined_clusters');
CALL wall_published('joined_clusters');

-- Users stand in the organization's realm, and so do their tokens. Reading them is for who may write there, and for
-- the user itself.
ALTER TABLE tokens ADD COLUMN realm text GENERATED ALWAYS AS ('organizations/' || organization) STORED NOT NULL;
CALL wall('tokens');
CALL wall_writes('tokens', 'INSERT', 'UPDATE');
GRANT SELECT ON tokens TO tombolo_app;
CREATE POLICY reads ON tokens FOR SELECT TO tombolo_app USING (
    organization = tombolo_organization()
    AND ARRAY[realm, '*'] && ARRAY(SELECT r.realm FROM realms r WHERE r.principal = tombolo_principal() AND r.writes));
CREATE POLICY own ON tokens TO tombolo_app
    USING (organization = tombolo_organization() AND user_uid = tombolo_principal());

-- A principal appends what it has done where it may write, and what it has done to itself. Nobody changes a record.
ALTER TABLE audit ADD COLUMN realm text GENERATED ALWAYS AS (realm_of(name)) STORED NOT NULL;
CALL wall('audit');
CALL wall_reads('audit');
CALL wall_writes('audit', 'INSERT');
REVOKE UPDATE, DELETE ON audit FROM tombolo_system;
CREATE POLICY own ON audit FOR INSERT TO tombolo_app WITH CHECK (
    organization = tombolo_organization()
    AND name = (SELECT u.name FROM resources u WHERE u.uid = tombolo_principal()));

CALL wall('denial_heads');
GRANT SELECT ON denial_heads TO tombolo_app;
CREATE POLICY reads ON denial_heads FOR SELECT TO tombolo_app USING (
    organization = tombolo_organization()
    AND EXISTS (SELECT FROM realms r WHERE r.principal = tombolo_principal() AND r.realm = '*'));

CALL wall('reports');
CALL wall_published('reports');

-- The bookkeeping of migrations is the owner's alone.
ALTER TABLE _sqlx_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE _sqlx_migrations FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON _sqlx_migrations TO CURRENT_USER USING (true);

-- Whose token that is, and for the rest of the transaction the principal, if the token is valid. The one thing that is
-- asked before there is a principal: as the owner, and only with the token in hand.
CREATE FUNCTION act_by_token(given bytea)
    RETURNS TABLE (token uuid, user_uid uuid, expires_at timestamptz, revoked_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 AS $$
BEGIN
    SELECT t.id, t.user_uid, t.expires_at, t.revoked_at INTO token, user_uid, expires_at, revoked_at
        FROM tokens t WHERE t.sha256 = given AND t.organization = tombolo_organization();
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF revoked_at IS NULL AND (expires_at IS NULL OR now() < expires_at) THEN
        PERFORM set_config('tombolo.principal', user_uid::text, true);
    END IF;
    RETURN NEXT;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION act_by_token(bytea) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION act_by_token(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION act_by_token(bytea) TO tombolo_app;
