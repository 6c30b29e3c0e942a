-- What a write that carried an idempotency key was answered, stored with the write itself: a retry is given this answer,
-- and writes nothing. Management drops them after a day.
CREATE TABLE idempotency_keys (
    organization text NOT NULL REFERENCES organizations (name),
    principal uuid NOT NULL,
    key text NOT NULL,
    -- SHA-256 of the request that was answered; another one may not have the key.
    request bytea NOT NULL,
    status smallint NOT NULL,
    location text,
    etag text,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (organization, principal, key)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (organization, created_at);

-- A key is its principal's alone: an answer is shown to nobody else, whatever that one may read or write.
CALL wall('idempotency_keys');
GRANT SELECT, INSERT ON idempotency_keys TO tombolo_app;
CREATE POLICY own ON idempotency_keys TO tombolo_app
    USING (organization = tombolo_organization() AND principal = tombolo_principal());

-- As whom a plan was submitted: it is applied as that manager, whoever applies it, for it was planned and approved so.
ALTER TABLE plans
    ADD COLUMN manager text,
    ADD COLUMN force boolean NOT NULL DEFAULT false;
-- How many plans of an author are open.
CREATE INDEX plans_by_author ON plans (organization, author_uid) WHERE state = 'open';
