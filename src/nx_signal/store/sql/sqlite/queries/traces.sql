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

-- name: add_contexts
-- That of the trace that stays.
INSERT INTO activity_context (
    activity_id, traceparent, tracestate, dataschema, audience, excluded_actor, handled_at
)
SELECT
    json_extract(value, '$.activity_id'), json_extract(value, '$.traceparent'),
    json_extract(value, '$.tracestate'), json_extract(value, '$.dataschema'), json_extract(value, '$.audience'),
    json_extract(value, '$.excluded_actor'), :handled_at
FROM json_each(:contexts)
WHERE NOT EXISTS (
    SELECT 1 FROM activity_trace AS t
    WHERE t.activity_id = json_extract(value, '$.activity_id')
        AND t.outcome NOT IN (SELECT r.value FROM json_each(:retryable) AS r)
)
ON CONFLICT (activity_id) DO UPDATE
SET traceparent = excluded.traceparent, tracestate = excluded.tracestate, dataschema = excluded.dataschema,
    audience = excluded.audience, excluded_actor = excluded.excluded_actor, handled_at = excluded.handled_at;
