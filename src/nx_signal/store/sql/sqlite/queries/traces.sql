-- name: handled
-- A trace may be removed before the notifications: then the position is the identity, where that is one.
SELECT asked.value AS activity_id, coalesce(t.position, asked.value) AS position, c.digest,
    t.activity_id IS NOT NULL OR c.activity_id IS NOT NULL AS handled,
    EXISTS (SELECT 1 FROM activity_correction AS k WHERE k.activity_id = asked.value) AS corrected
FROM json_each(:activity_ids) AS asked
LEFT JOIN activity_trace AS t ON t.activity_id = asked.value
LEFT JOIN activity_content AS c ON c.activity_id = asked.value;

-- name: add_traces
INSERT INTO activity_content (activity_id, digest, handled_at)
SELECT json_extract(value, '$.activity_id'), json_extract(value, '$.digest'), :handled_at
FROM json_each(:traces)
WHERE json_extract(value, '$.digest') IS NOT NULL
ON CONFLICT (activity_id) DO NOTHING;
INSERT INTO activity_trace (
    activity_id, position, type, scope, rule, recipients, outcome, reason, handled_at
)
SELECT
    json_extract(value, '$.activity_id'), json_extract(value, '$.position'), json_extract(value, '$.type'),
    json_extract(value, '$.scope'), json_extract(value, '$.rule'), json_extract(value, '$.recipients'),
    json_extract(value, '$.outcome'), json_extract(value, '$.reason'), :handled_at
FROM json_each(:traces)
WHERE true -- else ON would be taken for a join's
ON CONFLICT (activity_id) DO UPDATE
SET position = excluded.position, type = excluded.type, scope = excluded.scope, rule = excluded.rule,
    recipients = excluded.recipients, outcome = excluded.outcome, reason = excluded.reason,
    handled_at = excluded.handled_at
WHERE activity_trace.outcome IN (SELECT value FROM json_each(:retryable));
