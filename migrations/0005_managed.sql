-- Who keeps a resource in step with a source outside, such as a folder that `tombolo sync` applies, and the revision of
-- its manager's last write: anything later was somebody else. Null where nobody does.
ALTER TABLE resources
    ADD COLUMN managed_by text,
    ADD COLUMN managed_revision bigint,
    ADD CONSTRAINT managed_as_a_whole CHECK ((managed_by IS NULL) = (managed_revision IS NULL));
