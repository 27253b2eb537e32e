-- additive: releases that know the steps before this one go on working beside this one.

-- What came with an activity beside its content, for explain. A table of its own: a release of before reads all columns
-- of activity_trace, and most activities have none of this.
CREATE TABLE activity_context (
    activity_id TEXT PRIMARY KEY,
    traceparent TEXT,
    tracestate TEXT,
    dataschema TEXT,
    audience TEXT, -- JSON
    excluded_actor TEXT,
    handled_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX activity_context_age ON activity_context (handled_at);
