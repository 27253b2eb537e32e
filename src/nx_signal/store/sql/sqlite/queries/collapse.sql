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
