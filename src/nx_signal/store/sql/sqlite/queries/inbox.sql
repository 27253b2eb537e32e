-- name: lock
-- The transaction holds the file's one write lock.
SELECT * FROM inbox_head WHERE recipient_id = :recipient_id;

-- name: set_head
INSERT INTO recipient_head (recipient_id, rev, total, unread, unseen, history, history_rev)
VALUES (:recipient_id, :rev, :total, :unread, :unseen, :history, :rev)
ON CONFLICT (recipient_id) DO UPDATE
SET rev = excluded.rev, total = excluded.total, unread = excluded.unread, unseen = excluded.unseen,
    history = excluded.history, history_rev = excluded.history_rev;

-- name: add_to_type
INSERT INTO recipient_type (recipient_id, type, total, unread)
VALUES (:recipient_id, :type, :many, :many)
ON CONFLICT (recipient_id, type) DO UPDATE
SET total = total + excluded.total, unread = unread + excluded.unread;

-- name: states
SELECT n.id, n.rev, n.type, n.is_read, n.read_at, n.seen_at, n.archived_at, n.deleted_at,
    (n.is_read OR n.seen_at IS NOT NULL OR n.rev <= :seen_rev) AS is_seen
FROM reached_row AS n
-- + keeps SQLite from walking over the whole inbox, here and below.
WHERE n.id IN (SELECT value FROM json_each(:ids)) AND +n.recipient_id = :recipient_id
    AND (n.deleted_at IS NULL OR n.archived_at IS NOT NULL);

-- name: write_states
UPDATE activity_notification
SET is_read = json_extract(new.value, '$.is_read'), read_at = json_extract(new.value, '$.read_at'),
    seen_at = json_extract(new.value, '$.seen_at'), archived_at = json_extract(new.value, '$.archived_at'),
    deleted_at = json_extract(new.value, '$.deleted_at'), modified_at = :modified_at, changed_rev = :rev
FROM json_each(:states, '$.rows') AS new
WHERE activity_notification.id = json_extract(new.value, '$.id')
    AND +activity_notification.recipient_id = :recipient_id;

-- name: rendered_from
SELECT id, rendered_from FROM activity_notification
WHERE recipient_id = :recipient_id AND id IN (SELECT value FROM json_each(:ids)) AND rendered_from IS NOT NULL;

-- name: activities_written
SELECT asked.value AS activity_id FROM json_each(:activity_ids) AS asked
WHERE EXISTS (SELECT 1 FROM activity_notification AS n WHERE n.activity_id = asked.value);

-- name: heads
SELECT * FROM inbox_head
WHERE recipient_id IN (SELECT value FROM json_each(:recipient_ids));

-- name: created_since
SELECT n.*
FROM json_each(:recipient_ids) AS asked
CROSS JOIN inbox_creation AS n
    ON n.recipient_id = asked.value
    AND n.rev > json_extract(:revs, '$[' || asked.key || ']')
    AND n.rev <= json_extract(:revs, '$[' || asked.key || ']') + :limit;

-- name: changed_since
SELECT c.*
FROM json_each(:recipient_ids) AS asked
CROSS JOIN inbox_change AS c
    ON c.recipient_id = asked.value
    AND c.rev > json_extract(:revs, '$[' || asked.key || ']')
    AND c.rev <= json_extract(:revs, '$[' || asked.key || ']') + :limit;

-- name: advance
-- Set the heads, take off what each type lost, and log the changes that led to them.
UPDATE recipient_head
SET rev = json_extract(given.value, '$.rev'), total = json_extract(given.value, '$.total'),
    unread = json_extract(given.value, '$.unread'), unseen = json_extract(given.value, '$.unseen'),
    history = json_extract(given.value, '$.history'), history_rev = json_extract(given.value, '$.rev')
FROM json_each(:changes) AS given
WHERE recipient_head.recipient_id = json_extract(given.value, '$.recipient_id');
UPDATE recipient_type
SET total = recipient_type.total - json_extract(lost.value, '$.total'),
    unread = recipient_type.unread - json_extract(lost.value, '$.unread')
FROM json_each(:losses) AS lost
WHERE recipient_type.recipient_id = json_extract(lost.value, '$.recipient_id')
    AND recipient_type.type = json_extract(lost.value, '$.type');
INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total, unseen, history)
SELECT
    json_extract(value, '$.recipient_id'), json_extract(value, '$.rev'), json_extract(value, '$.kind'),
    json_extract(value, '$.detail'), json_extract(value, '$.unread'), json_extract(value, '$.total'),
    json_extract(value, '$.unseen'), json_extract(value, '$.history')
FROM json_each(:changes);

-- name: lock_or_create
-- The transaction holds the file's one write lock.
INSERT INTO recipient_head (recipient_id, rev, total, unread)
SELECT value, 0, 0, 0 FROM json_each(:recipient_ids)
WHERE true -- else ON would be taken for a join's
ON CONFLICT (recipient_id) DO NOTHING;

-- name: rows_among
-- Of these rows those that are in an inbox or archived, as the counts see them.
SELECT n.id, n.recipient_id, n.type, n.is_read, n.deleted_at,
    (n.is_read OR n.seen_at IS NOT NULL OR n.rev <= h.seen_rev) AS is_seen
FROM json_each(:rows) AS given
CROSS JOIN reached_row AS n
    ON n.id = json_extract(given.value, '$.id')
    AND n.recipient_id = json_extract(given.value, '$.recipient_id')
CROSS JOIN recipient_head AS h ON h.recipient_id = n.recipient_id
WHERE n.deleted_at IS NULL OR n.archived_at IS NOT NULL
ORDER BY n.id;

-- name: take_out
-- Of several inboxes, each with the revision of its change.
UPDATE activity_notification
SET deleted_at = :deleted_at, modified_at = :deleted_at, archived_at = NULL,
    is_read = is_read OR json_extract(given.value, '$.is_read'), changed_rev = json_extract(given.value, '$.rev')
FROM json_each(:rows) AS given
WHERE activity_notification.id = json_extract(given.value, '$.id')
    AND activity_notification.recipient_id = json_extract(given.value, '$.recipient_id');
