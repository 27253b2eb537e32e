-- additive: releases that know the steps before this one go on working beside this one.

-- Seen by itself; a row that is read, or up to its head's `seen_rev`, is seen as well.
ALTER TABLE activity_notification ADD COLUMN seen_at timestamptz;

-- An archived row has `deleted_at` too: it is in no list and no count of the inbox, and for a release of before it is
-- deleted. One that is deleted later has no `archived_at` any more.
ALTER TABLE activity_notification ADD COLUMN archived_at timestamptz;
CREATE INDEX activity_notification_archived ON activity_notification (recipient_id, rev)
    WHERE archived_at IS NOT NULL;

-- As unread_after. NULL in rows that a release of before wrote.
ALTER TABLE activity_notification ADD COLUMN unseen_after bigint;

-- A newer row of a recipient takes the place of those with the same key and organizer; `replaces` is a JSON list of
-- their ids. The first index finds what is in the inbox (the column of NULLs makes SQLite take it), the second one the
-- newest that ever was.
ALTER TABLE activity_notification ADD COLUMN collapse_key text;
ALTER TABLE activity_notification ADD COLUMN occurred_at timestamptz;
ALTER TABLE activity_notification ADD COLUMN replaces text;
CREATE INDEX activity_notification_collapse ON activity_notification (
    recipient_id, collapse_key, coalesce(organizer_id, ''), deleted_at
) WHERE collapse_key IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX activity_notification_newest ON activity_notification (
    recipient_id, collapse_key, coalesce(organizer_id, ''), occurred_at
) WHERE collapse_key IS NOT NULL;

CREATE INDEX activity_notification_replacing ON activity_notification (recipient_id, rev) WHERE replaces IS NOT NULL;

ALTER TABLE activity_notification ADD COLUMN priority text NOT NULL DEFAULT 'normal';
ALTER TABLE activity_notification ADD COLUMN expires_at timestamptz;
CREATE INDEX activity_notification_expiry ON activity_notification (expires_at, id)
    WHERE expires_at IS NOT NULL AND (deleted_at IS NULL OR archived_at IS NOT NULL);

-- Rows up to `seen_rev` are seen. `unseen` is NULL until this release first moves the head.
ALTER TABLE recipient_head ADD COLUMN seen_rev bigint NOT NULL DEFAULT 0;
ALTER TABLE recipient_head ADD COLUMN unseen bigint;

-- The log takes further kinds of changes, and has the third count.
ALTER TABLE recipient_change DROP CONSTRAINT recipient_change_kind_check;
ALTER TABLE recipient_change ADD COLUMN unseen bigint;

DROP VIEW inbox_head;
DROP VIEW inbox_change;
DROP VIEW inbox_creation;
DROP VIEW inbox_row;

-- The columns that the conditions test are compared by the join, as before: it stays an anti join.
CREATE VIEW inbox_row AS
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at, n.deleted_at, n.seen_at, n.archived_at,
    n.collapse_key, n.occurred_at, n.replaces, n.priority, n.expires_at,
    n.is_read AS is_marked,
    n.is_read OR u.up_to_rev IS NOT NULL AS is_read,
    coalesce(n.read_at, u.read_at) AS read_at,
    CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification n
LEFT JOIN unsettled_read u
    ON u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev
    AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject);

-- The same of a row that may be archived, which no read-all covers. It looks at a column that the indexes of the
-- inbox do not have.
CREATE VIEW reached_row AS
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at, n.deleted_at, n.seen_at, n.archived_at,
    n.collapse_key, n.occurred_at, n.replaces, n.priority, n.expires_at,
    n.is_read AS is_marked,
    n.is_read OR u.up_to_rev IS NOT NULL AS is_read,
    coalesce(n.read_at, u.read_at) AS read_at,
    CASE WHEN n.is_read THEN n.changed_rev ELSE coalesce(u.rev, n.changed_rev) END AS changed_rev
FROM activity_notification n
LEFT JOIN unsettled_read u
    ON u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev AND n.archived_at IS NULL
    AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject);

-- What a release of before created counts as seen with what is read. Its counts follow from the last change below it, or
-- from a later row that took the place of others.
CREATE VIEW inbox_creation AS
SELECT n.id, n.recipient_id, n.rev, n.activity_id, n.type, n.organizer_id, n.merchant_id, n.subject, n.locale,
    n.content, n.content_html, n.action_url, n.data, n.created_at,
    n.collapse_key, n.occurred_at, n.replaces, n.priority, n.expires_at,
    false AS is_read, NULL::timestamptz AS read_at, false AS is_seen, NULL::timestamptz AS archived_at,
    n.rev AS changed_rev,
    coalesce(
        n.unread_after,
        (SELECT p.unread_after + n.rev - p.rev FROM activity_notification p
         WHERE p.recipient_id = n.recipient_id AND p.rev < n.rev AND p.replaces IS NOT NULL AND p.rev > coalesce((
             SELECT max(c.rev) FROM recipient_change c WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev
         ), 0) ORDER BY p.rev DESC LIMIT 1),
        (SELECT c.unread + n.rev - c.rev FROM recipient_change c
         WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev ORDER BY c.rev DESC LIMIT 1),
        n.rev
    ) AS unread,
    coalesce(
        n.unseen_after,
        n.unread_after,
        (SELECT p.unseen_after + n.rev - p.rev FROM activity_notification p
         WHERE p.recipient_id = n.recipient_id AND p.rev < n.rev AND p.replaces IS NOT NULL AND p.rev > coalesce((
             SELECT max(c.rev) FROM recipient_change c WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev
         ), 0) ORDER BY p.rev DESC LIMIT 1),
        (SELECT coalesce(c.unseen, c.unread) + n.rev - c.rev FROM recipient_change c
         WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev ORDER BY c.rev DESC LIMIT 1),
        n.rev
    ) AS unseen,
    coalesce(
        n.total_after,
        (SELECT p.total_after + n.rev - p.rev FROM activity_notification p
         WHERE p.recipient_id = n.recipient_id AND p.rev < n.rev AND p.replaces IS NOT NULL AND p.rev > coalesce((
             SELECT max(c.rev) FROM recipient_change c WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev
         ), 0) ORDER BY p.rev DESC LIMIT 1),
        (SELECT c.total + n.rev - c.rev FROM recipient_change c
         WHERE c.recipient_id = n.recipient_id AND c.rev < n.rev ORDER BY c.rev DESC LIMIT 1),
        n.rev
    ) AS total
FROM activity_notification n;

CREATE VIEW inbox_change AS
SELECT c.recipient_id, c.rev, c.kind, c.detail, c.unread, coalesce(c.unseen, c.unread) AS unseen, c.total,
    coalesce(c.history, c.kind || '-' || coalesce(c.detail ->> 'readAt', c.detail -> 'ids' ->> 0, '')) AS history
FROM recipient_change c;

-- A head with its newest change's history, and what is unseen; both are looked up only where a release of before
-- moved it (is_moved). Until anything was seen, all that is unread is unseen.
CREATE VIEW inbox_head AS
SELECT h.recipient_id, h.rev, h.total, h.unread, h.kept_after AS truncated_through, h.kept_history AS truncated_history,
    CASE WHEN h.history_rev = h.rev THEN coalesce(h.history, '') ELSE coalesce(
        (SELECT CAST(n.id AS text) FROM activity_notification n
         WHERE n.recipient_id = h.recipient_id AND n.rev = h.rev),
        (SELECT c.history FROM inbox_change c WHERE c.recipient_id = h.recipient_id AND c.rev = h.rev),
        ''
    ) END AS history,
    h.seen_rev, h.history_rev <> h.rev AS is_moved,
    CASE WHEN h.unseen IS NULL THEN h.unread
    WHEN h.history_rev = h.rev THEN h.unseen
    ELSE (
        SELECT count(*) FROM inbox_row r
        WHERE r.recipient_id = h.recipient_id AND r.deleted_at IS NULL AND NOT r.is_marked AND NOT r.is_read
            AND r.rev > h.seen_rev AND r.seen_at IS NULL
    ) END AS unseen
FROM recipient_head h;
