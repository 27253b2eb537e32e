-- name: remove_unapplied
DELETE FROM unsettled_read WHERE recipient_id = :recipient_id AND rev = :rev;

-- name: owner_of_oldest
-- Ids ascend with time: the primary key finds what is old, and at once that nothing is.
SELECT recipient_id FROM activity_notification WHERE id < :before_id ORDER BY id LIMIT 1;

-- name: oldest
SELECT id, rev, type, is_read, deleted_at, archived_at,
    (is_read OR seen_at IS NOT NULL OR rev <= :seen_rev) AS is_seen
FROM reached_row
WHERE recipient_id = :recipient_id
ORDER BY rev
LIMIT :limit;

-- name: remove_rows
DELETE FROM activity_notification WHERE recipient_id = :recipient_id AND rev <= :up_to_rev;

-- name: truncate_log
UPDATE recipient_head SET kept_after = :truncated_through, kept_history = :history
WHERE recipient_id = :recipient_id AND kept_after < :truncated_through;

-- name: remove_changes
-- The last of them stays: the counts at rows that an older release wrote follow from it.
DELETE FROM recipient_change
WHERE recipient_id = :recipient_id AND rev IN (
    SELECT old.rev
    FROM recipient_change AS old
    WHERE old.recipient_id = :recipient_id AND old.rev < (
        SELECT max(base.rev)
        FROM recipient_change AS base
        WHERE base.recipient_id = :recipient_id AND base.rev <= :truncated_through
    )
    ORDER BY old.rev
    LIMIT :limit
);

-- name: expired
-- The index of what has an expiry finds these, and at once that there are none.
SELECT id, recipient_id FROM activity_notification
WHERE expires_at <= :now AND (deleted_at IS NULL OR archived_at IS NOT NULL)
ORDER BY expires_at, id
LIMIT :limit;

-- name: audit_heads
SELECT recipient_id, rev, total, unread, unseen, truncated_through
FROM inbox_head
WHERE recipient_id > :after
ORDER BY recipient_id
LIMIT :limit;
