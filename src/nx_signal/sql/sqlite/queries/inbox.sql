-- {where} is a further condition from adapters/sqlite/inbox.py, with parameters of its own.

-- name: existing_activities
SELECT n.activity_id, n.recipient_id
FROM json_each(:keys) AS asked
CROSS JOIN activity_notification AS n
    ON n.activity_id = json_extract(asked.value, '$[0]')
    AND n.recipient_id = json_extract(asked.value, '$[1]');

-- name: insert_notification
INSERT INTO activity_notification (
    id, recipient_id, rev, changed_rev, activity_id, type, organizer_id, merchant_id, subject, locale,
    content, content_html, action_url, data, created_at, modified_at
) VALUES (
    :id, :recipient_id, :rev, :rev, :activity_id, :type, :organizer_id, :merchant_id, :subject, :locale,
    :content, :content_html, :action_url, :data, :created_at, :created_at
);

-- name: write_head
INSERT INTO recipient_head (recipient_id, rev, total, unread)
VALUES (:recipient_id, :rev, :total, :unread)
ON CONFLICT (recipient_id) DO UPDATE
SET rev = excluded.rev, total = excluded.total, unread = excluded.unread;

-- name: add_to_type
INSERT INTO recipient_type (recipient_id, type, total, unread)
VALUES (:recipient_id, :type, :total, :unread)
ON CONFLICT (recipient_id, type) DO UPDATE
SET total = total + excluded.total, unread = unread + excluded.unread;

-- name: type_counts
SELECT total, unread FROM recipient_type WHERE recipient_id = :recipient_id AND type = :type;

-- name: unread_by_type
SELECT type, unread FROM recipient_type WHERE recipient_id = :recipient_id AND unread > 0;

-- name: heads
SELECT recipient_id, rev, total, unread
FROM recipient_head
WHERE recipient_id IN (SELECT value FROM json_each(:recipient_ids));

-- name: kept_after
SELECT recipient_id, kept_after
FROM recipient_head
WHERE kept_after > 0 AND recipient_id IN (SELECT value FROM json_each(:recipient_ids));

-- name: created_since
SELECT n.*
FROM json_each(:cursors) AS asked
CROSS JOIN activity_notification AS n
    ON n.recipient_id = json_extract(asked.value, '$[0]')
    AND n.rev > json_extract(asked.value, '$[1]')
    AND n.rev <= json_extract(asked.value, '$[1]') + :limit;

-- name: changed_since
SELECT c.*
FROM json_each(:cursors) AS asked
CROSS JOIN recipient_change AS c
    ON c.recipient_id = json_extract(asked.value, '$[0]')
    AND c.rev > json_extract(asked.value, '$[1]')
    AND c.rev <= json_extract(asked.value, '$[1]') + :limit;

-- name: counts_before
-- The last change at or below each cursor: what the counts there follow from.
SELECT c.recipient_id, c.rev, c.unread, c.total
FROM json_each(:cursors) AS asked
CROSS JOIN recipient_change AS c
    ON c.recipient_id = json_extract(asked.value, '$[0]')
    AND c.rev = (
        SELECT max(last.rev)
        FROM recipient_change AS last
        WHERE last.recipient_id = json_extract(asked.value, '$[0]')
            AND last.rev <= json_extract(asked.value, '$[1]')
    );

-- name: page
-- Read is also what an unsettled read-all covers (adapters/_read_all.py).
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at,
    n.is_read OR u.rev IS NOT NULL AS is_read, coalesce(n.read_at, u.read_at) AS read_at,
    CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification AS n
LEFT JOIN unsettled_read AS u ON {covers}
WHERE n.recipient_id = :recipient_id AND n.deleted_at IS NULL AND n.rev < :before_rev {where}
ORDER BY n.rev DESC
LIMIT :limit OFFSET :skip;

-- name: count
SELECT count(*)
FROM activity_notification AS n
WHERE n.recipient_id = :recipient_id AND n.deleted_at IS NULL {where};

-- name: count_by_type
SELECT n.type, count(*)
FROM activity_notification AS n
WHERE n.recipient_id = :recipient_id AND n.deleted_at IS NULL {where}
GROUP BY n.type;

-- name: get
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at,
    n.is_read OR u.rev IS NOT NULL AS is_read, coalesce(n.read_at, u.read_at) AS read_at,
    CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification AS n
LEFT JOIN unsettled_read AS u ON {covers}
WHERE n.id = :id AND n.recipient_id = :recipient_id AND n.deleted_at IS NULL;

-- name: mark_read
UPDATE activity_notification
SET is_read = 1, read_at = :at, modified_at = :at, changed_rev = :rev
WHERE id = :id AND recipient_id = :recipient_id;

-- name: unsettled
SELECT recipient_id, rev, up_to_rev, type, subject, read_at
FROM unsettled_read
WHERE recipient_id = :recipient_id;

-- name: any_unsettled
SELECT recipient_id, rev, up_to_rev, type, subject, read_at FROM unsettled_read LIMIT 1;

-- name: mark_portion
UPDATE activity_notification
SET is_read = 1, read_at = :at, modified_at = :at, changed_rev = :rev
WHERE id IN (
    SELECT n.id
    FROM activity_notification AS n
    WHERE n.recipient_id = :recipient_id AND n.is_read = 0 AND n.deleted_at IS NULL AND n.rev <= :up_to_rev
        {where}
    ORDER BY n.rev
    LIMIT :limit
)
RETURNING type;

-- name: leave_unsettled
INSERT INTO unsettled_read (recipient_id, rev, up_to_rev, type, subject, read_at)
VALUES (:recipient_id, :rev, :up_to_rev, :type, :subject, :at);

-- name: forget_unsettled
DELETE FROM unsettled_read WHERE recipient_id = :recipient_id;

-- name: delete
UPDATE activity_notification
SET deleted_at = :at, modified_at = :at, changed_rev = :rev, is_read = :is_read
WHERE id = :id AND recipient_id = :recipient_id;

-- name: log_change
INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total)
VALUES (:recipient_id, :rev, :kind, :detail, :unread, :total);

-- name: rows_of
SELECT n.recipient_id, n.id, n.rev, n.created_at, n.is_read OR u.rev IS NOT NULL AS is_read,
    n.deleted_at IS NOT NULL AS deleted
FROM activity_notification AS n
LEFT JOIN unsettled_read AS u ON {covers}
WHERE n.activity_id = :activity_id AND (:recipient_id IS NULL OR n.recipient_id = :recipient_id)
ORDER BY n.recipient_id
LIMIT :limit;

-- name: count_rows_of
SELECT count(*) FROM activity_notification WHERE activity_id = :activity_id;
