-- name: lock
SELECT * FROM inbox_head WHERE recipient_id = :recipient_id FOR NO KEY UPDATE;

-- name: states
SELECT n.id, n.rev, n.type, n.is_read, n.read_at, n.seen_at, n.archived_at, n.deleted_at,
    (n.is_read OR n.seen_at IS NOT NULL OR n.rev <= :seen_rev) AS is_seen
FROM reached_row n
WHERE n.id = ANY (:ids::bigint[]) AND n.recipient_id = :recipient_id
    AND (n.deleted_at IS NULL OR n.archived_at IS NOT NULL);

-- name: write_states
UPDATE activity_notification n
SET is_read = new.is_read, read_at = new.read_at, seen_at = new.seen_at, archived_at = new.archived_at,
    deleted_at = new.deleted_at, modified_at = :modified_at, changed_rev = :rev
FROM json_to_recordset(:states::json -> 'rows') AS new (
    id bigint, is_read boolean, read_at timestamptz, seen_at timestamptz, archived_at timestamptz,
    deleted_at timestamptz
)
WHERE n.id = new.id AND n.recipient_id = :recipient_id;

-- name: rendered_from
SELECT id, rendered_from FROM activity_notification
WHERE recipient_id = :recipient_id AND id = ANY (:ids::bigint[]) AND rendered_from IS NOT NULL;

-- name: activities_written
SELECT asked.activity_id FROM unnest(:activity_ids::text[]) AS asked (activity_id)
WHERE EXISTS (SELECT FROM activity_notification n WHERE n.activity_id = asked.activity_id);

-- name: heads
SELECT * FROM inbox_head
WHERE recipient_id = ANY (:recipient_ids::text[]);

-- name: created_since
-- Revisions have no gap, so a range of them is a limit. LIMIT repeats it for the planner, which would otherwise
-- read the whole table where its statistics are poor.
SELECT n.*
FROM unnest(:recipient_ids::text[], :revs::bigint[]) AS asked (recipient_id, rev)
CROSS JOIN LATERAL (
    SELECT * FROM inbox_creation r
    WHERE r.recipient_id = asked.recipient_id AND r.rev > asked.rev AND r.rev <= asked.rev + :limit::bigint
    ORDER BY r.rev LIMIT :limit::bigint
) n;

-- name: changed_since
SELECT c.*
FROM unnest(:recipient_ids::text[], :revs::bigint[]) AS asked (recipient_id, rev)
CROSS JOIN LATERAL (
    SELECT * FROM inbox_change r
    WHERE r.recipient_id = asked.recipient_id AND r.rev > asked.rev AND r.rev <= asked.rev + :limit::bigint
    ORDER BY r.rev LIMIT :limit::bigint
) c;

-- name: advance
-- The heads are locked: set them, take off what each type lost, and log the changes that led to them. The limits
-- tell the planner how few there are.
WITH given AS (
    SELECT * FROM json_to_recordset(:changes::json) AS c (
        recipient_id text, rev bigint, total bigint, unread bigint, unseen bigint, kind text, detail text,
        history text
    )
    LIMIT :many_changes
), lost AS (
    SELECT * FROM json_to_recordset(:losses::json) AS l (recipient_id text, type text, total bigint, unread bigint)
    LIMIT :many_losses
), head AS (
    UPDATE recipient_head h
    SET rev = g.rev, total = g.total, unread = g.unread, unseen = g.unseen, history = g.history,
        history_rev = g.rev
    FROM given g
    WHERE h.recipient_id = g.recipient_id
), typed AS (
    UPDATE recipient_type t SET total = t.total - lost.total, unread = t.unread - lost.unread
    FROM lost
    WHERE t.recipient_id = lost.recipient_id AND t.type = lost.type
)
INSERT INTO recipient_change (recipient_id, rev, total, unread, unseen, kind, detail, history)
SELECT recipient_id, rev, total, unread, unseen, kind, CAST(detail AS json), history FROM given;

-- name: lock_or_create
-- Create the missing heads and lock all, in ascending order everywhere, so that writers of several inboxes
-- cannot wait for each other in a circle. The update's WHERE is never true, yet it locks the row.
INSERT INTO recipient_head AS h (recipient_id)
SELECT asked.recipient_id FROM unnest(:recipient_ids::text[]) AS asked (recipient_id)
ORDER BY asked.recipient_id COLLATE "C"
ON CONFLICT (recipient_id) DO UPDATE SET rev = h.rev WHERE false;

-- name: rows_among
-- Of these rows those that are in an inbox or archived, as the counts see them.
SELECT n.id, n.recipient_id, n.type, n.is_read, n.deleted_at,
    (n.is_read OR n.seen_at IS NOT NULL OR n.rev <= h.seen_rev) AS is_seen
FROM json_to_recordset(:rows::json) AS given (id bigint, recipient_id text)
JOIN reached_row n ON n.id = given.id AND n.recipient_id = given.recipient_id
JOIN recipient_head h ON h.recipient_id = given.recipient_id
WHERE n.deleted_at IS NULL OR n.archived_at IS NOT NULL
ORDER BY n.id;

-- name: take_out
-- Of several inboxes, each with the revision of its change.
UPDATE activity_notification n
SET deleted_at = :deleted_at, modified_at = :deleted_at, archived_at = NULL, is_read = n.is_read OR given.is_read,
    changed_rev = given.rev
FROM json_to_recordset(:rows::json) AS given (id bigint, recipient_id text, is_read boolean, rev bigint)
WHERE n.id = given.id AND n.recipient_id = given.recipient_id;
