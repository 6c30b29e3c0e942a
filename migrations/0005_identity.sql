-- Who owns a resource: by uid, so that a user who is deleted and created again owns nothing.
ALTER TABLE resources ADD COLUMN owner uuid;

-- Which token asked for this one. Revoking a token revokes what its user had issued to itself with it.
ALTER TABLE tokens ADD COLUMN issued_by uuid;
