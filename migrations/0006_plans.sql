-- Plans that wait for the approval of another person. What was sent is kept, and the plan that it comes to: an approval is
-- good for that plan alone.
CREATE TABLE plans (
    id uuid PRIMARY KEY,
    organization text NOT NULL REFERENCES organizations (name),
    -- The nearest node above all that it changes.
    node text COLLATE "C" NOT NULL,
    author text NOT NULL,
    author_uid uuid NOT NULL,
    description text NOT NULL,
    plan text NOT NULL,
    documents jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'rejected', 'applied')),
    realm text GENERATED ALWAYS AS (realm_of(node)) STORED NOT NULL
);
CREATE INDEX plans_by_state ON plans (organization, state, id);
-- Whoever may only read may have to approve: management writes for them.
CALL wall('plans');
CALL wall_reads('plans');

-- By uid: who has the name of somebody that was deleted has not voted.
CREATE TABLE plan_votes (
    plan_id uuid NOT NULL REFERENCES plans (id),
    organization text NOT NULL REFERENCES organizations (name),
    -- Of the plan.
    node text COLLATE "C" NOT NULL,
    voter text NOT NULL,
    voter_uid uuid NOT NULL,
    approves boolean NOT NULL,
    comment text NOT NULL,
    time timestamptz NOT NULL,
    realm text GENERATED ALWAYS AS (realm_of(node)) STORED NOT NULL,
    PRIMARY KEY (plan_id, voter_uid)
);
CALL wall('plan_votes');
CALL wall_reads('plan_votes');
