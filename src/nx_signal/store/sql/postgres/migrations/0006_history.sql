-- additive: releases that know the steps before this one go on working beside this one.

-- What identifies a change for ever; a creation is identified by its row's id. NULL in what a release of before wrote.
ALTER TABLE recipient_change ADD COLUMN history text;

-- The newest change's, and its revision: a release of before moves `rev` alone.
ALTER TABLE recipient_head ADD COLUMN history text;
ALTER TABLE recipient_head ADD COLUMN history_rev bigint NOT NULL DEFAULT 0;

-- Of the change at `kept_after`, where that is a row that was removed by age.
ALTER TABLE recipient_head ADD COLUMN kept_history text;

-- Changes of a release of before are identified by what they hold.
CREATE VIEW inbox_change AS
SELECT c.recipient_id, c.rev, c.kind, c.detail, c.unread, c.total,
    coalesce(c.history, c.kind || '-' || coalesce(c.detail ->> 'readAt', c.detail -> 'ids' ->> 0, '')) AS history
FROM recipient_change c;

-- A head with its newest change's history, which is looked up only where a release of before moved it.
CREATE VIEW inbox_head AS
SELECT h.recipient_id, h.rev, h.total, h.unread, h.kept_after AS truncated_through, h.kept_history AS truncated_history,
    CASE WHEN h.history_rev = h.rev THEN coalesce(h.history, '') ELSE coalesce(
        (SELECT CAST(n.id AS text) FROM activity_notification n
         WHERE n.recipient_id = h.recipient_id AND n.rev = h.rev),
        (SELECT c.history FROM inbox_change c WHERE c.recipient_id = h.recipient_id AND c.rev = h.rev),
        ''
    ) END AS history
FROM recipient_head h;
