-- A read-all of many rows is recorded at once and written into its rows in portions. Until then the rows up
-- to `up_to_rev`, of `type` and `subject` where given, count as read. Those up to `settled_rev` are written.
CREATE TABLE unsettled_read (
    recipient_id text        PRIMARY KEY,
    rev          bigint      NOT NULL,
    up_to_rev    bigint      NOT NULL,
    settled_rev  bigint      NOT NULL DEFAULT 0,
    type         text,
    subject      text,
    read_at      timestamptz NOT NULL
);

-- The log of an inbox is complete above this revision; what is at or below it may have been removed by age.
ALTER TABLE recipient_head ADD COLUMN kept_after bigint NOT NULL DEFAULT 0;

-- The two filters that select few of many rows: lists, their counts, what is marked read at once. The unread
-- ones of a type are counted in the index alone.
CREATE INDEX activity_notification_type ON activity_notification (recipient_id, type, rev)
    INCLUDE (is_read, subject) WHERE deleted_at IS NULL;
CREATE INDEX activity_notification_subject ON activity_notification (recipient_id, subject, rev)
    WHERE deleted_at IS NULL AND subject IS NOT NULL;
