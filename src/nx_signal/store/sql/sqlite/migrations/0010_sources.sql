-- additive: releases that know the steps before this one go on working beside this one.

-- How far each group of a source has read, beside the broker's offsets.
CREATE TABLE source_position (
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    topic_id TEXT, -- the broker's
    first_offset INTEGER, -- where the group began
    next_offset INTEGER,
    PRIMARY KEY (group_id, topic, partition)
) WITHOUT ROWID;

-- A digest of what each activity states: another one with the same identity is noticed. Pruned with the traces.
CREATE TABLE activity_content (
    activity_id TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    handled_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX activity_content_age ON activity_content (handled_at);
