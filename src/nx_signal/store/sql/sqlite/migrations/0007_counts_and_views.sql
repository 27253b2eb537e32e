-- additive: releases that know the steps before this one go on working beside this one.

-- The counts of the inbox at the row's `rev`. NULL in rows that a release of before wrote.
ALTER TABLE activity_notification ADD COLUMN unread_after INTEGER;
ALTER TABLE activity_notification ADD COLUMN total_after INTEGER;

-- A row as its reader sees it: a read-all that is not yet in all its rows counts at once. `is_marked` is whether
-- the row itself is marked: the index of unread rows is about that.
CREATE VIEW inbox_row AS
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at, n.deleted_at,
    n.is_read AS is_marked,
    n.is_read OR u.up_to_rev IS NOT NULL AS is_read,
    coalesce(n.read_at, u.read_at) AS read_at,
    CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification AS n
LEFT JOIN unsettled_read AS u
    ON u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev
    AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject);

-- A row as it was created, with the counts then. For a release of before each revision after the last logged
-- change was the creation of an unread row.
CREATE VIEW inbox_creation AS
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at,
    0 AS is_read, NULL AS read_at, n.rev AS changed_rev,
    coalesce(
        n.unread_after,
        (SELECT c.unread + n.rev - c.rev FROM recipient_change AS c
         WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev ORDER BY c.rev DESC LIMIT 1),
        n.rev
    ) AS unread,
    coalesce(
        n.total_after,
        (SELECT c.total + n.rev - c.rev FROM recipient_change AS c
         WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev ORDER BY c.rev DESC LIMIT 1),
        n.rev
    ) AS total
FROM activity_notification AS n;
