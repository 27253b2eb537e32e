-- name: existing_activities
SELECT n.activity_id, n.recipient_id
FROM json_array_elements(:keys::json) AS asked (key)
JOIN activity_notification n ON n.activity_id = asked.key ->> 0 AND n.recipient_id = asked.key ->> 1;

-- name: set_heads
UPDATE recipient_head h
SET rev = given.rev, total = given.total, unread = given.unread, unseen = given.unseen, history = given.history, history_rev = given.rev
FROM json_to_recordset(:heads::json) AS given (
    recipient_id text, rev bigint, total bigint, unread bigint, unseen bigint, history text
)
WHERE h.recipient_id = given.recipient_id;

-- name: add_to_types
-- What is taken off is negative.
INSERT INTO recipient_type AS t (recipient_id, type, total, unread)
SELECT given.recipient_id, given.type, given.total, given.unread
FROM json_to_recordset(:types::json) AS given (recipient_id text, type text, total bigint, unread bigint)
ON CONFLICT (recipient_id, type) DO UPDATE
SET total = t.total + excluded.total, unread = t.unread + excluded.unread;

-- name: newest_of_keys
-- Of each key, when the newest happened that the recipient ever had.
SELECT asked.key, (
    SELECT n.occurred_at FROM activity_notification n
    WHERE n.recipient_id = asked.recipient_id AND n.collapse_key = asked.collapse_key
        AND coalesce(n.organizer_id, '') = asked.organizer_id
    ORDER BY n.occurred_at DESC LIMIT 1
) AS occurred_at
FROM json_to_recordset(:keys::json) AS asked (key integer, recipient_id text, organizer_id text, collapse_key text);

-- name: rows_of_keys
-- Of each key what the inbox has.
SELECT asked.key, r.id, r.type, r.is_read, r.deleted_at,
    (r.is_read OR r.seen_at IS NOT NULL OR r.rev <= h.seen_rev) AS is_seen
FROM json_to_recordset(:keys::json) AS asked (key integer, recipient_id text, organizer_id text, collapse_key text)
JOIN inbox_row r ON r.recipient_id = asked.recipient_id AND r.collapse_key = asked.collapse_key
    AND coalesce(r.organizer_id, '') = asked.organizer_id AND r.deleted_at IS NULL
JOIN recipient_head h ON h.recipient_id = r.recipient_id
ORDER BY asked.key, r.rev
LIMIT :limit;
