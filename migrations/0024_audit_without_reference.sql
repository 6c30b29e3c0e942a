-- A record is inserted by the statement that updates the row of its organization, which says whether there is one. The
-- reference looked that row up once more, behind that update.
--
-- From here on a segment of `audit_postings` may also be of tier 2, of which 0022 knows nothing: 32 large ones.

-- Both tables at once or neither: whoever writes locks the organization first, and whoever reads pages the record.
DO $$
DECLARE
    reference text := (
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'audit'::regclass AND contype = 'f' AND confrelid = 'organizations'::regclass);
    are_locked boolean := false;
BEGIN
    FOR attempt IN 1..200 LOOP
        BEGIN
            LOCK TABLE organizations, audit IN ACCESS EXCLUSIVE MODE NOWAIT;
            are_locked := true;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.02);
        END;
    END LOOP;
    IF NOT are_locked THEN
        RAISE lock_not_available USING
            MESSAGE = 'the tables organizations and audit are in use: end what dumps or vacuums them, then start again';
    END IF;
    EXECUTE format('ALTER TABLE audit DROP CONSTRAINT %I', reference);
END $$;
