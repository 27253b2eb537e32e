-- A read-all of many rows is recorded at once and written into its rows in portions. Until then the rows up
-- to `up_to_rev`, of `type` and `subject` where given, count as read.
CREATE TABLE unsettled_read (
    recipient_id TEXT PRIMARY KEY,
    rev INTEGER NOT NULL,
    up_to_rev INTEGER NOT NULL,
    type TEXT,
    subject TEXT,
    read_at INTEGER NOT NULL
) WITHOUT ROWID;

-- The log of an inbox is complete above this revision; what is at or below it may have been removed by age.
ALTER TABLE recipient_head ADD COLUMN kept_after INTEGER NOT NULL DEFAULT 0;

-- The rows of a type or a subject, all or the unread ones, are counted in the index alone. That takes every
-- column that the query names, also those that the index is about.
DROP INDEX activity_notification_type;
CREATE INDEX activity_notification_type ON activity_notification
    (recipient_id, type, rev, is_read, subject, deleted_at)
    WHERE deleted_at IS NULL;
DROP INDEX activity_notification_subject;
CREATE INDEX activity_notification_subject ON activity_notification
    (recipient_id, subject, rev, is_read, type, deleted_at)
    WHERE deleted_at IS NULL AND subject IS NOT NULL;
