-- The management plane's tables. Postgres 14 and later, no extension.

-- One head row per organization. Every write locks it, so that revision order is commit order and the chain of
-- audit records has no gaps.
CREATE TABLE organizations (
    name text PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch > 0),
    revision bigint NOT NULL CHECK (revision >= 0),
    audit_sequence bigint NOT NULL CHECK (audit_sequence >= 0),
    audit_hash bytea NOT NULL
);

CREATE TABLE resources (
    name text PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    uid uuid NOT NULL UNIQUE,
    kind text NOT NULL,
    document jsonb NOT NULL,
    etag text NOT NULL,
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX resources_by_revision ON resources (organization, revision);

-- Names that were deleted, so that whoever catches up by revision learns of it. A name that exists again has a row
-- in both tables; the resource wins.
CREATE TABLE tombstones (
    name text PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    uid uuid NOT NULL,
    revision bigint NOT NULL
);
CREATE INDEX tombstones_by_revision ON tombstones (organization, revision);

-- Clusters that have been heard of. By uid: one that is deleted and created again has not joined.
CREATE TABLE joined_clusters (
    uid uuid PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    revision bigint NOT NULL,
    joined_at timestamptz NOT NULL
);

-- Bearer tokens, as the SHA-256 of what the user holds. By uid, for the same reason.
CREATE TABLE tokens (
    id uuid PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    sha256 bytea NOT NULL UNIQUE,
    user_uid uuid NOT NULL,
    description text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX tokens_by_user ON tokens (user_uid);

-- Two chains: `writes`, whose head is in the organization's row, and `denials`. The hash of a record covers
-- the previous hash and the stored bytes; the other columns repeat them for the index.
CREATE TABLE audit (
    organization text NOT NULL REFERENCES organizations (name),
    chain text NOT NULL CHECK (chain IN ('writes', 'denials')),
    sequence bigint NOT NULL,
    record bytea NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    time timestamptz NOT NULL,
    actor text NOT NULL,
    verb text NOT NULL,
    name text NOT NULL,
    outcome text NOT NULL,
    PRIMARY KEY (organization, chain, sequence)
);
CREATE INDEX audit_by_time ON audit (organization, time DESC);

CREATE TABLE denial_heads (
    organization text PRIMARY KEY REFERENCES organizations (name),
    sequence bigint NOT NULL,
    hash bytea NOT NULL
);

-- What each central last reported, so that a restarted management knows before it hears.
CREATE TABLE reports (
    organization text NOT NULL REFERENCES organizations (name),
    central text NOT NULL,
    document jsonb NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (organization, central)
);
