-- Times are UTC milliseconds since 1970. Ids are Snowflakes.

CREATE TABLE activity_notification (
    id INTEGER PRIMARY KEY,
    recipient_id TEXT NOT NULL,
    rev INTEGER NOT NULL,
    changed_rev INTEGER NOT NULL,
    activity_id TEXT NOT NULL,
    type TEXT NOT NULL,
    organizer_id TEXT,
    merchant_id TEXT,
    subject TEXT,
    locale TEXT NOT NULL,
    content TEXT NOT NULL,
    content_html TEXT NOT NULL,
    action_url TEXT,
    data TEXT NOT NULL, -- JSON
    is_read INTEGER NOT NULL DEFAULT 0,
    read_at INTEGER,
    created_at INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    deleted_at INTEGER
);

-- a redelivered activity finds its row, a deleted one too
CREATE UNIQUE INDEX activity_notification_activity ON activity_notification (activity_id, recipient_id);

-- lists and replays
CREATE UNIQUE INDEX activity_notification_rev ON activity_notification (recipient_id, rev);

-- what is unread: listed, marked all at once
CREATE INDEX activity_notification_unread ON activity_notification (recipient_id, rev)
    WHERE is_read = 0 AND deleted_at IS NULL;

-- the two filters that select few of many rows
CREATE INDEX activity_notification_type ON activity_notification (recipient_id, type, rev)
    WHERE deleted_at IS NULL;
CREATE INDEX activity_notification_subject ON activity_notification (recipient_id, subject, rev)
    WHERE deleted_at IS NULL AND subject IS NOT NULL;

CREATE TABLE recipient_head (
    recipient_id TEXT PRIMARY KEY,
    rev INTEGER NOT NULL,
    total INTEGER NOT NULL CHECK (total >= 0),
    unread INTEGER NOT NULL CHECK (unread BETWEEN 0 AND total)
) WITHOUT ROWID;

-- Every change of an inbox that is not a creation, with the counts after it. A revision that is not here
-- is the `rev` of a row of activity_notification; between two of these each revision adds one unread row.
CREATE TABLE recipient_change (
    recipient_id TEXT NOT NULL,
    rev INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('read', 'deleted')),
    detail TEXT NOT NULL, -- JSON
    unread INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (recipient_id, rev)
) WITHOUT ROWID;
