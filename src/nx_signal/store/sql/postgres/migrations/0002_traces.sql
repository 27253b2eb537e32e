-- What became of each activity, for operators; pruned by age.
CREATE TABLE activity_trace (
    activity_id text        PRIMARY KEY,
    position    text        NOT NULL, -- topic/partition/offset
    type        text,
    scope       text,
    rule        text,
    recipients  integer     NOT NULL,
    outcome     text        NOT NULL,
    reason      text,
    handled_at  timestamptz NOT NULL
);

CREATE INDEX activity_trace_age ON activity_trace (handled_at);
