-- What of a resource its manager keeps: {"revision": N, "fields": ["/spec/namespaces", ...]}. Null where that is all of it, and
-- not counted where N is not managed_revision: then code that knows only whole resources has written since.
ALTER TABLE resources ADD COLUMN managed_fields jsonb;
