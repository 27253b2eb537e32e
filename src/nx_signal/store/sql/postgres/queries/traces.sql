-- name: handled
-- A trace may be removed before the notifications: then the position is the identity, where that is one.
SELECT asked.id AS activity_id, coalesce(t.position, asked.id) AS position, c.digest,
       t.activity_id IS NOT NULL OR c.activity_id IS NOT NULL AS handled,
       EXISTS (SELECT FROM activity_correction k WHERE k.activity_id = asked.id COLLATE "C") AS corrected
FROM unnest(:activity_ids::text[]) AS asked (id)
LEFT JOIN activity_trace AS t ON t.activity_id = asked.id
LEFT JOIN activity_content AS c ON c.activity_id = asked.id COLLATE "C";

-- name: add_traces
WITH content AS (
    INSERT INTO activity_content (activity_id, digest, handled_at)
    SELECT given.activity_id, given.digest, :handled_at::timestamptz
    FROM json_to_recordset(:traces::json) AS given (activity_id text, digest text)
    WHERE given.digest IS NOT NULL
    ORDER BY given.activity_id COLLATE "C"
    ON CONFLICT (activity_id) DO NOTHING
)
INSERT INTO activity_trace AS t (
    activity_id, position, type, scope, rule, recipients, outcome, reason, handled_at
)
SELECT given.activity_id, given.position, given.type, given.scope, given.rule, given.recipients, given.outcome,
       given.reason, :handled_at::timestamptz
FROM json_to_recordset(:traces::json) AS given (
    activity_id text, position text, type text, scope text, rule text, recipients integer, outcome text, reason text
)
ORDER BY given.activity_id COLLATE "C"
ON CONFLICT (activity_id) DO UPDATE
SET position = excluded.position, type = excluded.type, scope = excluded.scope, rule = excluded.rule,
    recipients = excluded.recipients, outcome = excluded.outcome, reason = excluded.reason,
    handled_at = excluded.handled_at
WHERE t.outcome = ANY (:retryable::text[]);

-- name: add_contexts
-- That of the trace that stays.
INSERT INTO activity_context (
    activity_id, traceparent, tracestate, dataschema, audience, excluded_actor, handled_at
)
SELECT given.activity_id, given.traceparent, given.tracestate, given.dataschema, given.audience,
       given.excluded_actor, :handled_at::timestamptz
FROM json_to_recordset(:contexts::json) AS given (
    activity_id text, traceparent text, tracestate text, dataschema text, audience text, excluded_actor text
)
WHERE NOT EXISTS (
    SELECT 1 FROM activity_trace t
    WHERE t.activity_id = given.activity_id AND t.outcome <> ALL (:retryable::text[])
)
ORDER BY given.activity_id COLLATE "C"
ON CONFLICT (activity_id) DO UPDATE
SET traceparent = excluded.traceparent, tracestate = excluded.tracestate, dataschema = excluded.dataschema,
    audience = excluded.audience, excluded_actor = excluded.excluded_actor, handled_at = excluded.handled_at;
