-- Statements for several inboxes at once. Their rows come as one JSON list of objects.

-- name: lock_or_create
-- The transaction holds the file's one write lock.
INSERT INTO recipient_head (recipient_id, rev, total, unread)
SELECT value, 0, 0, 0 FROM json_each(:recipient_ids)
WHERE true -- else ON would be taken for a join's
ON CONFLICT (recipient_id) DO NOTHING;

-- name: existing_activities
SELECT n.activity_id, n.recipient_id
FROM json_each(:keys) AS asked
CROSS JOIN activity_notification AS n
    ON n.activity_id = json_extract(asked.value, '$[0]')
    AND n.recipient_id = json_extract(asked.value, '$[1]');

-- name: set_heads
UPDATE recipient_head
SET rev = json_extract(given.value, '$.rev'), total = json_extract(given.value, '$.total'),
    unread = json_extract(given.value, '$.unread'), unseen = json_extract(given.value, '$.unseen'), history = json_extract(given.value, '$.history'),
    history_rev = json_extract(given.value, '$.rev')
FROM json_each(:heads) AS given
WHERE recipient_head.recipient_id = json_extract(given.value, '$.recipient_id');

-- name: add_to_types
-- What is taken off is negative.
INSERT INTO recipient_type (recipient_id, type, total, unread)
SELECT json_extract(value, '$.recipient_id'), json_extract(value, '$.type'), json_extract(value, '$.total'),
    json_extract(value, '$.unread')
FROM json_each(:types)
WHERE true
ON CONFLICT (recipient_id, type) DO UPDATE
SET total = total + excluded.total, unread = unread + excluded.unread;

-- name: take_out
UPDATE activity_notification
SET deleted_at = :deleted_at, modified_at = :deleted_at, archived_at = NULL,
    is_read = is_read OR json_extract(given.value, '$.is_read'), changed_rev = json_extract(given.value, '$.rev')
FROM json_each(:rows) AS given
WHERE activity_notification.id = json_extract(given.value, '$.id')
    AND activity_notification.recipient_id = json_extract(given.value, '$.recipient_id');

-- name: log_changes
INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total, unseen, history)
SELECT json_extract(value, '$.recipient_id'), json_extract(value, '$.rev'), json_extract(value, '$.kind'),
    json_extract(value, '$.detail'), json_extract(value, '$.unread'), json_extract(value, '$.total'),
    json_extract(value, '$.unseen'), json_extract(value, '$.history')
FROM json_each(:changes);

-- name: newest_of_keys
-- Of each key, when the newest happened that the recipient ever had.
SELECT asked.key, (
    SELECT n.occurred_at FROM activity_notification AS n
    WHERE n.recipient_id = json_extract(asked.value, '$.recipient_id')
        AND n.collapse_key = json_extract(asked.value, '$.collapse_key')
        AND coalesce(n.organizer_id, '') = json_extract(asked.value, '$.organizer_id')
    ORDER BY n.occurred_at DESC LIMIT 1
) AS occurred_at
FROM json_each(:keys) AS asked;

-- name: rows_of_keys
-- Of each key what the inbox has.
SELECT asked.key, r.id, r.type, r.is_read, r.deleted_at,
    (r.is_read OR r.seen_at IS NOT NULL OR r.rev <= h.seen_rev) AS is_seen
FROM json_each(:keys) AS asked
CROSS JOIN inbox_row AS r
    ON r.recipient_id = json_extract(asked.value, '$.recipient_id')
    AND r.collapse_key = json_extract(asked.value, '$.collapse_key')
    AND coalesce(r.organizer_id, '') = json_extract(asked.value, '$.organizer_id')
    AND r.deleted_at IS NULL
JOIN recipient_head AS h ON h.recipient_id = r.recipient_id
ORDER BY asked.key, r.rev
LIMIT :limit;

-- name: rows_among
SELECT r.id, r.recipient_id, r.type, r.is_read, r.deleted_at,
    (r.is_read OR r.seen_at IS NOT NULL OR r.rev <= h.seen_rev) AS is_seen
FROM json_each(:rows) AS asked
CROSS JOIN inbox_row AS r
    ON r.id = json_extract(asked.value, '$.id') AND r.recipient_id = json_extract(asked.value, '$.recipient_id')
JOIN recipient_head AS h ON h.recipient_id = r.recipient_id
WHERE r.deleted_at IS NULL OR r.archived_at IS NOT NULL
ORDER BY r.id;
