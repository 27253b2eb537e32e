-- What became of each activity, for operators; pruned by age.
CREATE TABLE activity_trace (
    activity_id TEXT PRIMARY KEY,
    position TEXT NOT NULL, -- topic/partition/offset
    type TEXT,
    scope TEXT,
    rule TEXT,
    recipients INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    handled_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX activity_trace_age ON activity_trace (handled_at);
