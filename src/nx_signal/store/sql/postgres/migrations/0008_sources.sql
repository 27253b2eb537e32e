-- additive: releases that know the steps before this one go on working beside this one.

-- How far each group of a source has read, beside the broker's offsets.
CREATE TABLE source_position (
    group_id     text    NOT NULL,
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    topic_id     text, -- the broker's
    first_offset bigint, -- where the group began
    next_offset  bigint,
    PRIMARY KEY (group_id, topic, partition)
);

-- A digest of what each activity states: another one with the same identity is noticed. Pruned with the traces.
CREATE TABLE activity_content (
    activity_id text        COLLATE "C" PRIMARY KEY, -- those of one id are neighbours, whatever their source
    digest      text        NOT NULL,
    handled_at  timestamptz NOT NULL
);

CREATE INDEX activity_content_age ON activity_content (handled_at);
