INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome)
SELECT $1, given.* FROM unnest(
    $2::text[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[], $7::timestamptz[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[]
) AS given
