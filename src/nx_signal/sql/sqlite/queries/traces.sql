-- name: add_traces
INSERT INTO activity_trace (
    activity_id, position, type, scope, rule, recipients, outcome, reason, handled_at
)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]'), :handled_at
FROM json_each(:traces)
WHERE true -- else ON would be taken for a join's
ON CONFLICT (activity_id) DO UPDATE
SET position = excluded.position, type = excluded.type, scope = excluded.scope, rule = excluded.rule,
    recipients = excluded.recipients, outcome = excluded.outcome, reason = excluded.reason,
    handled_at = excluded.handled_at
WHERE activity_trace.outcome IN ('unknown_type', 'dead_letter');

-- name: trace
SELECT * FROM activity_trace WHERE activity_id = :activity_id;

-- name: prune_traces
DELETE FROM activity_trace WHERE activity_id IN (
    SELECT activity_id FROM activity_trace WHERE handled_at < :before ORDER BY handled_at LIMIT :limit
);
