-- The order of the columns of a row is that of inbox.py's _row.

-- name: lock_heads
-- Make the missing heads and lock all, in ascending order everywhere, so that writers of several inboxes
-- cannot wait for each other in a circle. The update's WHERE is never true, yet it locks the row.
INSERT INTO recipient_head AS h (recipient_id)
SELECT asked.recipient_id FROM unnest($1::text[]) AS asked (recipient_id)
ORDER BY asked.recipient_id COLLATE "C"
ON CONFLICT (recipient_id) DO UPDATE SET rev = h.rev WHERE false;

-- name: insert
-- READ COMMITTED is enough: this statement's snapshot is taken after lock_heads, so whatever the former
-- holder of a head wrote is visible, and nobody else can write to these inboxes until we commit.
WITH fresh AS (
    SELECT d.*, row_number() OVER (PARTITION BY d.recipient_id ORDER BY d.ord) AS step
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::json[])
         WITH ORDINALITY AS d (id, recipient_id, activity_id, type, organizer_id, merchant_id, subject,
                               locale, content, content_html, action_url, data, ord)
    WHERE NOT EXISTS (
        SELECT FROM activity_notification n
        WHERE n.activity_id = d.activity_id AND n.recipient_id = d.recipient_id
    )
), grown AS (
    SELECT recipient_id, count(*) AS many FROM fresh GROUP BY recipient_id
), head AS (
    UPDATE recipient_head h
    SET rev = h.rev + g.many, total = h.total + g.many, unread = h.unread + g.many
    FROM grown g
    WHERE h.recipient_id = g.recipient_id
    RETURNING h.recipient_id, h.rev - g.many AS rev, h.total - g.many AS total, h.unread - g.many AS unread
), typed AS (
    INSERT INTO recipient_type AS t (recipient_id, type, total, unread)
    SELECT recipient_id, type, count(*), count(*) FROM fresh GROUP BY recipient_id, type
    ON CONFLICT (recipient_id, type) DO UPDATE
    SET total = t.total + excluded.total, unread = t.unread + excluded.unread
), inserted AS (
    INSERT INTO activity_notification (
        id, recipient_id, rev, changed_rev, activity_id, type, organizer_id, merchant_id, subject, locale,
        content, content_html, action_url, data, created_at, modified_at
    )
    SELECT f.id, f.recipient_id, h.rev + f.step, h.rev + f.step, f.activity_id, f.type, f.organizer_id,
           f.merchant_id, f.subject, f.locale, f.content, f.content_html, f.action_url, f.data, $13, $13
    FROM fresh f JOIN head h USING (recipient_id)
)
SELECT f.ord - 1 AS index, h.rev + f.step AS rev, h.unread + f.step AS unread, h.total + f.step AS total
FROM fresh f JOIN head h USING (recipient_id)
ORDER BY f.ord;

-- name: heads
SELECT recipient_id, rev, total, unread FROM recipient_head WHERE recipient_id = ANY ($1::text[]);

-- name: heads_and_bases
-- With the revision to go on after: the cursor, or where the kept log begins. And with the last change that is
-- no creation at or below it: from there the counts go on, +1 for each revision, because all those in between
-- are creations.
SELECT h.recipient_id, h.rev, h.total, h.unread, greatest(asked.rev, h.kept_after) AS after,
       coalesce(base.rev, 0) AS base_rev,
       coalesce(base.total, 0) AS base_total,
       coalesce(base.unread, 0) AS base_unread
FROM unnest($1::text[], $2::bigint[]) AS asked (recipient_id, rev)
JOIN recipient_head h ON h.recipient_id = asked.recipient_id
LEFT JOIN LATERAL (
    SELECT c.rev, c.total, c.unread FROM recipient_change c
    WHERE c.recipient_id = asked.recipient_id AND c.rev <= greatest(asked.rev, h.kept_after)
    ORDER BY c.rev DESC LIMIT 1
) base ON h.rev > asked.rev;

-- name: created_after
-- Revisions have no gap, so a range of them is a limit. LIMIT says it again for the planner, which would
-- otherwise read the whole table where its statistics are poor.
SELECT n.id, n.recipient_id, n.rev, n.changed_rev, n.activity_id, n.type, n.organizer_id, n.merchant_id,
       n.subject, n.locale, n.content, n.content_html, n.action_url, n.data, n.is_read, n.read_at, n.created_at
FROM unnest($1::text[], $2::bigint[]) AS asked (recipient_id, rev)
CROSS JOIN LATERAL (
    SELECT * FROM activity_notification r
    WHERE r.recipient_id = asked.recipient_id AND r.rev > asked.rev AND r.rev <= asked.rev + $3::bigint
    ORDER BY r.rev LIMIT $3::bigint
) n;

-- name: changed_after
SELECT c.recipient_id, c.rev, c.kind, c.detail, c.unread, c.total
FROM unnest($1::text[], $2::bigint[]) AS asked (recipient_id, rev)
CROSS JOIN LATERAL (
    SELECT * FROM recipient_change r
    WHERE r.recipient_id = asked.recipient_id AND r.rev > asked.rev AND r.rev <= asked.rev + $3::bigint
    ORDER BY r.rev LIMIT $3::bigint
) c;

-- name: page
-- The head, with each row. The filter's conditions are constant text too (inbox.py, _conditions). Read is also
-- what an unsettled read-all covers (adapters/_read_all.py).
SELECT h.rev AS head_rev, h.total AS head_total, h.unread AS head_unread, {matching} AS matching, p.*
FROM recipient_head h
LEFT JOIN LATERAL (
    SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
           n.content, n.content_html, n.action_url, n.data, n.created_at,
           n.is_read OR u.rev IS NOT NULL AS is_read, coalesce(n.read_at, u.read_at) AS read_at,
           CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
    FROM activity_notification n
    LEFT JOIN unsettled_read u ON {covers}
    WHERE n.recipient_id = $1 AND n.deleted_at IS NULL AND n.rev < $2 {where}
    ORDER BY n.rev DESC
    LIMIT $3 OFFSET $4
) p ON true
WHERE h.recipient_id = $1
ORDER BY p.rev DESC;

-- name: count
SELECT h.rev AS head_rev, h.total AS head_total, h.unread AS head_unread, {matching} AS matching
FROM recipient_head h WHERE h.recipient_id = $1;

-- name: matching_type
coalesce((SELECT {which} FROM recipient_type t WHERE t.recipient_id = $1 AND t.type = {type}), 0)

-- name: matching
SELECT count(*) FROM activity_notification n WHERE n.recipient_id = $1 AND n.deleted_at IS NULL {where}

-- name: lock_head
SELECT recipient_id, rev, total, unread FROM recipient_head WHERE recipient_id = $1 FOR NO KEY UPDATE;

-- name: get
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
       n.content, n.content_html, n.action_url, n.data, n.created_at,
       n.is_read OR u.rev IS NOT NULL AS is_read, coalesce(n.read_at, u.read_at) AS read_at,
       CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification n
LEFT JOIN unsettled_read u ON {covers}
WHERE n.id = $1 AND n.recipient_id = $2 AND n.deleted_at IS NULL;

-- name: mark_read
UPDATE activity_notification n
SET is_read = true, read_at = $3, modified_at = $3, changed_rev = $4
WHERE n.id = $1 AND n.recipient_id = $2 AND n.deleted_at IS NULL AND NOT n.is_read
  AND NOT {is_covered}
RETURNING n.id, n.recipient_id, n.rev, n.changed_rev, n.activity_id, n.type, n.organizer_id, n.merchant_id,
          n.subject, n.locale, n.content, n.content_html, n.action_url, n.data, n.is_read, n.read_at,
          n.created_at;

-- name: is_unsettled
SELECT EXISTS (SELECT FROM unsettled_read WHERE recipient_id = $1);

-- name: mark_portion
-- The lowest of the rows that a read-all covers. Whoever else marks or deletes one of them is waited for.
-- The array keeps the planner from joining with all rows of the table.
WITH portion AS MATERIALIZED (
    SELECT r.id, r.rev, r.type FROM activity_notification r
    WHERE r.recipient_id = $1 AND r.rev > $7 AND r.rev <= $2 AND r.deleted_at IS NULL AND NOT r.is_read
      AND ($5::text IS NULL OR r.type = $5) AND ($6::text IS NULL OR r.subject = $6)
    ORDER BY r.rev LIMIT $8
    FOR NO KEY UPDATE
), marked AS (
    UPDATE activity_notification n
    SET is_read = true, read_at = $3, modified_at = $3, changed_rev = $4
    WHERE n.id = ANY (ARRAY(SELECT portion.id FROM portion))
)
SELECT type, count(*) AS many, max(rev) AS last FROM portion GROUP BY type;

-- name: unread_by_type
SELECT type, unread FROM recipient_type WHERE recipient_id = $1 AND unread > 0;

-- name: count_unread
SELECT n.type, count(*) AS many FROM activity_notification n
WHERE n.recipient_id = $1 AND n.rev > $2 AND n.rev <= $3 AND n.deleted_at IS NULL AND NOT n.is_read
  AND ($4::text IS NULL OR n.type = $4) AND ($5::text IS NULL OR n.subject = $5)
GROUP BY n.type;

-- name: leave_unsettled
INSERT INTO unsettled_read (recipient_id, rev, up_to_rev, settled_rev, type, subject, read_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: unsettled
SELECT recipient_id, rev, up_to_rev, settled_rev, type, subject, read_at
FROM unsettled_read
WHERE $1::text IS NULL OR recipient_id = $1
LIMIT 1;

-- name: settled_up_to
-- Without this each portion would begin by walking over what the index still has of the earlier ones.
UPDATE unsettled_read SET settled_rev = greatest(settled_rev, $3) WHERE recipient_id = $1 AND rev = $2;

-- name: forget_unsettled
DELETE FROM unsettled_read WHERE recipient_id = $1 AND rev = $2;

-- name: delete
UPDATE activity_notification n
SET deleted_at = $3, modified_at = $3, changed_rev = $4,
    is_read = n.is_read OR {is_covered}
WHERE n.id = $1 AND n.recipient_id = $2 AND n.deleted_at IS NULL
RETURNING n.is_read, n.type;

-- name: advance
-- The head is locked by us: set it, take off what each type lost, and keep the change that brought it there.
WITH head AS (
    UPDATE recipient_head SET rev = $2, total = $3, unread = $4 WHERE recipient_id = $1
), typed AS (
    UPDATE recipient_type t SET total = t.total - lost.total, unread = t.unread - lost.unread
    FROM unnest($7::text[], $8::bigint[], $9::bigint[]) AS lost (type, total, unread)
    WHERE t.recipient_id = $1 AND t.type = lost.type
)
INSERT INTO recipient_change (recipient_id, rev, total, unread, kind, detail)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: rows_of
SELECT n.recipient_id, n.id, n.rev, n.created_at, n.is_read OR u.rev IS NOT NULL AS is_read,
       n.deleted_at IS NOT NULL AS deleted
FROM activity_notification n
LEFT JOIN unsettled_read u ON {covers}
WHERE n.activity_id = $1 AND ($2::text IS NULL OR n.recipient_id = $2)
ORDER BY n.recipient_id
LIMIT $3;

-- name: count_rows_of
SELECT count(*) FROM activity_notification n WHERE n.activity_id = $1;
