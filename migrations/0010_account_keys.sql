-- Keys of service accounts stand among the tokens: they are issued, revoked, and end with their holder alike. Of a key,
-- `sha256` is a hash of the public half, which differs from that of a token with the same bytes.
ALTER TABLE tokens ADD COLUMN public_key bytea CHECK (octet_length(public_key) = 32);
