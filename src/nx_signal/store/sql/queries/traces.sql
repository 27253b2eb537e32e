-- name: trace
SELECT t.activity_id, t.position, t.type, t.scope, t.rule, t.recipients, t.outcome, t.reason, t.handled_at,
    c.traceparent, c.tracestate, c.dataschema, c.audience, c.excluded_actor
FROM activity_trace AS t
LEFT JOIN activity_context AS c ON c.activity_id = t.activity_id
WHERE t.activity_id = :activity_id;

-- name: activities_missed
SELECT t.activity_id FROM activity_trace AS t
WHERE t.handled_at >= :since AND t.handled_at < :until AND t.outcome <> 'corrected'
    AND NOT EXISTS (
        SELECT 1 FROM activity_notification AS n
        WHERE n.activity_id = t.activity_id AND n.recipient_id = :recipient_id
    )
ORDER BY t.handled_at DESC, t.activity_id DESC
LIMIT :limit;

-- name: prune_traces
DELETE FROM activity_trace WHERE activity_id IN (
    SELECT activity_id FROM activity_trace WHERE handled_at < :before ORDER BY handled_at LIMIT :limit
);

-- name: note_trace
UPDATE activity_trace SET reason = CASE WHEN reason IS NULL THEN :note ELSE reason || ' ' || :note END
WHERE activity_id = :activity_id AND (reason IS NULL OR reason NOT LIKE :noted);

-- name: prune_contents
DELETE FROM activity_content WHERE activity_id IN (
    SELECT activity_id FROM activity_content WHERE handled_at < :before ORDER BY handled_at LIMIT :limit
);

-- name: contents_between
SELECT activity_id FROM activity_content WHERE activity_id >= :first AND activity_id < :end
UNION
SELECT activity_id FROM activity_correction WHERE activity_id >= :first AND activity_id < :end
ORDER BY activity_id LIMIT :limit;

-- name: oldest_trace
SELECT handled_at FROM activity_trace ORDER BY handled_at LIMIT 1;

-- name: trace_beyond
SELECT handled_at FROM activity_trace ORDER BY handled_at DESC LIMIT 1 OFFSET :most;

-- name: remove_traces
DELETE FROM activity_trace WHERE activity_id IN (
    SELECT activity_id FROM activity_trace WHERE handled_at <= :moment ORDER BY handled_at LIMIT :limit
);

-- name: remove_contexts
DELETE FROM activity_context WHERE activity_id IN (
    SELECT activity_id FROM activity_context WHERE handled_at <= :moment ORDER BY handled_at LIMIT :limit
);
