-- name: mark_rows
UPDATE activity_notification
SET is_read = 1, read_at = :read_at, modified_at = :read_at, changed_rev = :rev
WHERE id IN (SELECT value FROM json_each(:ids)) AND recipient_id = :recipient_id AND is_read = 0;

-- name: unapplied
SELECT recipient_id, rev, up_to_rev, 0 AS applied_rev, type, subject, read_at
FROM unsettled_read
WHERE :recipient_id IS NULL OR recipient_id = :recipient_id
LIMIT 1;

-- name: lock_unapplied
-- The transaction holds the file's one write lock.
SELECT value FROM json_each(:recipient_ids) WHERE false;

-- name: add_unapplied
INSERT INTO unsettled_read (recipient_id, rev, up_to_rev, type, subject, read_at)
VALUES (:recipient_id, :rev, :up_to_rev, :type, :subject, :read_at);

-- name: set_applied
-- The index of unread rows has nothing to walk over here.
SELECT :recipient_id, :rev, :applied_rev;

-- name: expire_alone
SELECT 1 AS alone;

-- name: audit_rows
-- Every blob is above every text: without :last there is no upper end.
SELECT n.recipient_id, n.type,
    count(*) FILTER (WHERE n.deleted_at IS NULL) AS total,
    count(*) FILTER (WHERE n.deleted_at IS NULL AND NOT n.is_read) AS unread,
    count(*) FILTER (
        WHERE n.deleted_at IS NULL AND NOT n.is_read AND n.seen_at IS NULL AND n.rev > coalesce(h.seen_rev, 0)
    ) AS unseen,
    count(*) FILTER (WHERE n.rev > coalesce(h.kept_after, 0)) AS revisions,
    max(n.rev) AS last
FROM inbox_row AS n
LEFT JOIN recipient_head AS h ON h.recipient_id = n.recipient_id
WHERE n.recipient_id > :after AND n.recipient_id <= coalesce(:last, x'')
GROUP BY n.recipient_id, n.type;

-- name: audit_types
SELECT recipient_id, type, total, unread
FROM recipient_type
WHERE recipient_id > :after AND recipient_id <= coalesce(:last, x'');

-- name: audit_log
SELECT c.recipient_id, count(*) AS revisions, count(n.id) AS doubled, max(c.rev) AS last
FROM recipient_change AS c
LEFT JOIN recipient_head AS h ON h.recipient_id = c.recipient_id
LEFT JOIN activity_notification AS n ON n.recipient_id = c.recipient_id AND n.rev = c.rev
WHERE c.recipient_id > :after AND c.recipient_id <= coalesce(:last, x'') AND c.rev > coalesce(h.kept_after, 0)
GROUP BY c.recipient_id;
