-- name: owner_of_oldest
-- Ids ascend with time: the primary key finds what is old, and at once that nothing is.
SELECT recipient_id FROM activity_notification WHERE id < $1 ORDER BY id LIMIT 1;

-- name: expire_alone
-- Until the end of the transaction. Two at once would do no harm, only wait for each other.
SELECT pg_try_advisory_xact_lock($1::integer, -2);

-- name: oldest
SELECT n.id, n.rev, n.type, n.is_read OR u.rev IS NOT NULL AS is_read, n.deleted_at IS NOT NULL AS deleted
FROM activity_notification n
LEFT JOIN unsettled_read u ON {covers}
WHERE n.recipient_id = $1
ORDER BY n.rev
LIMIT $2;

-- name: remove_rows
DELETE FROM activity_notification WHERE recipient_id = $1 AND rev <= $2;

-- name: keep_after
UPDATE recipient_head SET kept_after = greatest(kept_after, $2) WHERE recipient_id = $1;

-- name: remove_changes
-- The last of them stays: the counts of the creations after it follow from it.
WITH removed AS (
    DELETE FROM recipient_change c
    WHERE c.recipient_id = $1 AND c.rev IN (
        SELECT old.rev FROM recipient_change old
        WHERE old.recipient_id = $1 AND old.rev < (
            SELECT max(base.rev) FROM recipient_change base WHERE base.recipient_id = $1 AND base.rev <= $2
        )
        ORDER BY old.rev LIMIT $3
    )
    RETURNING 1
)
SELECT count(*) FROM removed;

-- name: audit_heads
SELECT recipient_id, rev, total, unread, kept_after
FROM recipient_head
WHERE recipient_id > $1
ORDER BY recipient_id
LIMIT $2;

-- name: audit_rows
SELECT n.recipient_id, n.type,
       count(*) FILTER (WHERE n.deleted_at IS NULL) AS total,
       count(*) FILTER (WHERE n.deleted_at IS NULL AND NOT n.is_read AND u.rev IS NULL) AS unread,
       count(*) FILTER (WHERE n.rev > coalesce(h.kept_after, 0)) AS revisions,
       max(n.rev) AS last
FROM activity_notification n
LEFT JOIN recipient_head h ON h.recipient_id = n.recipient_id
LEFT JOIN unsettled_read u ON {covers}
WHERE n.recipient_id > $1 AND ($2::text IS NULL OR n.recipient_id <= $2)
GROUP BY n.recipient_id, n.type;

-- name: audit_types
SELECT recipient_id, type, total, unread
FROM recipient_type
WHERE recipient_id > $1 AND ($2::text IS NULL OR recipient_id <= $2);

-- name: audit_log
SELECT c.recipient_id, count(*) AS revisions, count(n.id) AS doubled, max(c.rev) AS last
FROM recipient_change c
LEFT JOIN recipient_head h ON h.recipient_id = c.recipient_id
LEFT JOIN activity_notification n ON n.recipient_id = c.recipient_id AND n.rev = c.rev
WHERE c.recipient_id > $1 AND ($2::text IS NULL OR c.recipient_id <= $2) AND c.rev > coalesce(h.kept_after, 0)
GROUP BY c.recipient_id;
