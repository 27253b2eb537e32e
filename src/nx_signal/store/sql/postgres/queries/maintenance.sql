-- name: mark_rows
-- A transaction that marks or deletes one of them is waited for.
UPDATE activity_notification
SET is_read = true, read_at = :read_at, modified_at = :read_at, changed_rev = :rev
WHERE id = ANY (:ids::bigint[]) AND recipient_id = :recipient_id AND NOT is_read;

-- name: unapplied
-- One writer at a time applies it: once the record is gone, no other one marks rows by it any more.
SELECT recipient_id, rev, up_to_rev, settled_rev AS applied_rev, type, subject, read_at
FROM unsettled_read
WHERE :recipient_id::text IS NULL OR recipient_id = :recipient_id
LIMIT 1
FOR UPDATE;

-- name: lock_unapplied
-- A portion of a read-all locks its rows in another order: it has to end first.
SELECT recipient_id FROM unsettled_read WHERE recipient_id = ANY (:recipient_ids::text[]) FOR UPDATE;

-- name: add_unapplied
INSERT INTO unsettled_read (recipient_id, rev, up_to_rev, settled_rev, type, subject, read_at)
VALUES (:recipient_id, :rev, :up_to_rev, :applied_rev, :type, :subject, :read_at);

-- name: set_applied
-- Without this each portion would begin by walking over what the index still has of the earlier ones.
UPDATE unsettled_read SET settled_rev = greatest(settled_rev, :applied_rev)
WHERE recipient_id = :recipient_id AND rev = :rev;

-- name: expire_alone
-- Until the end of the transaction. Two at once would do no harm, only wait for each other.
SELECT pg_try_advisory_xact_lock(:namespace::integer, -2) AS alone;

-- name: audit_rows
SELECT n.recipient_id, n.type,
       count(*) FILTER (WHERE n.deleted_at IS NULL) AS total,
       count(*) FILTER (WHERE n.deleted_at IS NULL AND NOT n.is_read) AS unread,
       count(*) FILTER (
           WHERE n.deleted_at IS NULL AND NOT n.is_read AND n.seen_at IS NULL AND n.rev > coalesce(h.seen_rev, 0)
       ) AS unseen,
       count(*) FILTER (WHERE n.rev > coalesce(h.kept_after, 0)) AS revisions,
       max(n.rev) AS last
FROM inbox_row n
LEFT JOIN recipient_head h ON h.recipient_id = n.recipient_id
WHERE n.recipient_id > :after AND (:last::text IS NULL OR n.recipient_id <= :last)
GROUP BY n.recipient_id, n.type;

-- name: audit_types
SELECT recipient_id, type, total, unread
FROM recipient_type
WHERE recipient_id > :after AND (:last::text IS NULL OR recipient_id <= :last);

-- name: audit_log
SELECT c.recipient_id, count(*) AS revisions, count(n.id) AS doubled, max(c.rev) AS last
FROM recipient_change c
LEFT JOIN recipient_head h ON h.recipient_id = c.recipient_id
LEFT JOIN activity_notification n ON n.recipient_id = c.recipient_id AND n.rev = c.rev
WHERE c.recipient_id > :after AND (:last::text IS NULL OR c.recipient_id <= :last)
  AND c.rev > coalesce(h.kept_after, 0)
GROUP BY c.recipient_id;
