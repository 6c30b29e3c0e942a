-- The pairs of filters that had no index yet: what somebody has done to a workspace, a group or a single resource, and
-- what of a kind, verb or outcome was done to a single resource. A page of them walked all that somebody has done in the
-- tenant, or all that was done to the resource.
CREATE INDEX audit_by_node3_actor ON audit (node3_key, actor_key, time) WHERE node3_key IS NOT NULL;
CREATE INDEX audit_by_node4_actor ON audit (node4_key, actor_key, time) WHERE node4_key IS NOT NULL;
CREATE INDEX audit_by_node5_actor ON audit (node5_key, actor_key, time) WHERE node5_key IS NOT NULL;
CREATE INDEX audit_by_node5_class ON audit (node5_key, class_key, time) WHERE node5_key IS NOT NULL;
