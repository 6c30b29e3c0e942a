-- Who owns a resource: by uid, so that a user who is deleted and created again owns nothing.
ALTER TABLE resources ADD COLUMN owner uuid;

-- Which token asked for this one. Revoking a token revokes what its holder had issued to itself with it.
ALTER TABLE tokens ADD COLUMN issued_by uuid;

-- A service account may stand in a tenant, and its tokens are in that realm. The row says so itself, whatever was given:
-- who may write in one realm must not write tokens of a principal of another one.
CREATE FUNCTION place_token() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    NEW.realm := coalesce(
        (SELECT u.realm FROM resources u WHERE u.uid = NEW.user_uid AND u.organization = NEW.organization),
        'organizations/' || NEW.organization);
    RETURN NEW;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION place_token() SET search_path = %I, pg_temp', current_schema());
END $$;
ALTER TABLE tokens ALTER COLUMN realm DROP EXPRESSION;
CREATE TRIGGER placed BEFORE INSERT OR UPDATE OF user_uid, organization, realm ON tokens
    FOR EACH ROW EXECUTE FUNCTION place_token();
