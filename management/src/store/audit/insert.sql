-- The records of one write, with the classes and words that pages are found by. A file of its own, so that what
-- `cargo xtask bench audit` measures is this statement.
WITH given AS (
    SELECT * FROM unnest(
        $2::text[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[], $7::timestamptz[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::int[], $14::int[], $15::int[], $16::int[], $17::int[], $18::int[],
        $19::text[]
    ) AS given (chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome, actor_key, class_key,
        node2_key, node3_key, node4_key, node5_key, words)
), classes AS (
    INSERT INTO audit_classes (organization, kind, verb, outcome, class_key)
    SELECT DISTINCT $1, kind, verb, outcome, class_key FROM given
    ON CONFLICT DO NOTHING
), words AS (
    INSERT INTO audit_words (organization, chain, sequence, time, words)
    SELECT $1, chain, sequence, time, words::int[] FROM given
)
INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome,
    actor_key, class_key, node2_key, node3_key, node4_key, node5_key)
SELECT $1, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome, actor_key, class_key,
    node2_key, node3_key, node4_key, node5_key
FROM given
