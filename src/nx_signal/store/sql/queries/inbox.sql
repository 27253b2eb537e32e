-- Every statement that reads or changes rows of an inbox names its recipient.
-- The view inbox_row is a row as its reader sees it: what an unapplied read-all covers is read (is_marked is
-- whether the row itself is marked). It is for rows of the inbox; reached_row is for archived ones as well.

-- name: get
SELECT n.*, (n.is_read OR n.seen_at IS NOT NULL OR n.rev <= h.seen_rev) AS is_seen
FROM reached_row AS n
JOIN recipient_head AS h ON h.recipient_id = n.recipient_id
WHERE n.id = :id AND n.recipient_id = :recipient_id AND (n.deleted_at IS NULL OR n.archived_at IS NOT NULL);

-- name: set_seen
UPDATE recipient_head SET seen_rev = :seen_rev, unseen = :unseen WHERE recipient_id = :recipient_id;

-- name: rows_of
SELECT
    n.recipient_id, n.id, n.rev, n.created_at, n.is_read,
    n.deleted_at IS NOT NULL AND n.archived_at IS NULL AS deleted,
    n.organizer_id, n.merchant_id, n.collapse_key, n.occurred_at
FROM reached_row AS n
WHERE n.activity_id = :activity_id
    AND (CAST(:recipient_id AS text) IS NULL OR n.recipient_id = :recipient_id)
ORDER BY n.recipient_id
LIMIT :limit;

-- name: activities_received
SELECT activity_id FROM activity_notification
WHERE recipient_id = :recipient_id AND created_at >= :since AND created_at < :until
ORDER BY rev DESC
LIMIT :limit;

-- name: had_newer
SELECT 1 AS found FROM activity_notification
WHERE recipient_id = :recipient_id AND collapse_key = :collapse_key
    AND coalesce(organizer_id, '') = :organizer_id
    AND occurred_at > :occurred_at AND created_at <= :at
LIMIT 1;

-- name: count_rows_of
SELECT count(*) AS total FROM activity_notification WHERE activity_id = :activity_id;

-- name: history_at
SELECT CAST(n.id AS text) AS history
FROM activity_notification AS n
WHERE n.recipient_id = :recipient_id AND n.rev = :rev
UNION ALL
SELECT c.history FROM inbox_change AS c WHERE c.recipient_id = :recipient_id AND c.rev = :rev;

-- name: unread_by_type
SELECT type, unread AS many FROM recipient_type WHERE recipient_id = :recipient_id AND unread > 0;
