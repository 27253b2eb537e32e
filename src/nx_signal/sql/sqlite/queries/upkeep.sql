-- name: owner_of_oldest
-- Ids ascend with time: the primary key finds what is old, and at once that nothing is.
SELECT recipient_id FROM activity_notification WHERE id < :before_id ORDER BY id LIMIT 1;

-- name: oldest
SELECT n.id, n.rev, n.type, n.is_read OR u.rev IS NOT NULL AS is_read, n.deleted_at IS NOT NULL AS deleted
FROM activity_notification AS n
LEFT JOIN unsettled_read AS u ON {covers}
WHERE n.recipient_id = :recipient_id
ORDER BY n.rev
LIMIT :limit;

-- name: remove_rows
DELETE FROM activity_notification WHERE recipient_id = :recipient_id AND rev <= :last_rev;

-- name: keep_after
UPDATE recipient_head SET kept_after = max(kept_after, :kept_after) WHERE recipient_id = :recipient_id;

-- name: remove_changes
-- The last of them stays: the counts of the creations after it follow from it.
DELETE FROM recipient_change
WHERE recipient_id = :recipient_id AND rev IN (
    SELECT old.rev
    FROM recipient_change AS old
    WHERE old.recipient_id = :recipient_id AND old.rev < (
        SELECT max(base.rev)
        FROM recipient_change AS base
        WHERE base.recipient_id = :recipient_id AND base.rev <= :kept_after
    )
    ORDER BY old.rev
    LIMIT :limit
);

-- name: audit_heads
SELECT recipient_id, rev, total, unread, kept_after
FROM recipient_head
WHERE recipient_id > :after
ORDER BY recipient_id
LIMIT :limit;

-- name: audit_rows
SELECT n.recipient_id, n.type,
    count(*) FILTER (WHERE n.deleted_at IS NULL) AS total,
    count(*) FILTER (WHERE n.deleted_at IS NULL AND NOT n.is_read AND u.rev IS NULL) AS unread,
    count(*) FILTER (WHERE n.rev > coalesce(h.kept_after, 0)) AS revisions,
    max(n.rev) AS last
FROM activity_notification AS n
LEFT JOIN recipient_head AS h ON h.recipient_id = n.recipient_id
LEFT JOIN unsettled_read AS u ON {covers}
WHERE n.recipient_id > :after AND n.recipient_id <= :last
GROUP BY n.recipient_id, n.type;

-- name: audit_types
SELECT recipient_id, type, total, unread
FROM recipient_type
WHERE recipient_id > :after AND recipient_id <= :last;

-- name: audit_log
SELECT c.recipient_id, count(*) AS revisions, count(n.id) AS doubled, max(c.rev) AS last
FROM recipient_change AS c
LEFT JOIN recipient_head AS h ON h.recipient_id = c.recipient_id
LEFT JOIN activity_notification AS n ON n.recipient_id = c.recipient_id AND n.rev = c.rev
WHERE c.recipient_id > :after AND c.recipient_id <= :last AND c.rev > coalesce(h.kept_after, 0)
GROUP BY c.recipient_id;
