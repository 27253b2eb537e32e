-- name: add_traces
INSERT INTO activity_trace AS t (
    activity_id, position, type, scope, rule, recipients, outcome, reason, handled_at
)
SELECT given.*, $9::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[], $8::text[])
     AS given (activity_id, position, type, scope, rule, recipients, outcome, reason)
ORDER BY given.activity_id COLLATE "C"
ON CONFLICT (activity_id) DO UPDATE
SET position = excluded.position, type = excluded.type, scope = excluded.scope, rule = excluded.rule,
    recipients = excluded.recipients, outcome = excluded.outcome, reason = excluded.reason,
    handled_at = excluded.handled_at
WHERE t.outcome IN ('unknown_type', 'dead_letter');

-- name: trace
SELECT activity_id, position, type, scope, rule, recipients, outcome, reason, handled_at
FROM activity_trace WHERE activity_id = $1;

-- name: prune_traces
WITH old AS (
    SELECT activity_id FROM activity_trace WHERE handled_at < $1 ORDER BY handled_at LIMIT $2
), pruned AS (
    DELETE FROM activity_trace t USING old WHERE t.activity_id = old.activity_id RETURNING 1
)
SELECT count(*) FROM pruned;
