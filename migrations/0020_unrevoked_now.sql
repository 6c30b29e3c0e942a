-- Asked in the statement that waits for the head's lock, it must see what was revoked by who held that lock: a stable
-- function sees what was there when the statement began.
ALTER FUNCTION is_unrevoked(uuid) VOLATILE;
