-- additive: releases that know the steps before this one go on working beside this one.

-- Corrections and retractions of activities, kept also where the activity itself is still to come. Of one activity
-- that stands which comes first by (action, occurred_at descending, id descending): a retraction is final. Pruned by
-- age.
CREATE TABLE activity_correction (
    activity_id text        COLLATE "C" NOT NULL,
    position    text        NOT NULL, -- topic/partition/offset
    digest      text        NOT NULL,
    id          bigint      NOT NULL,
    action      text        NOT NULL,
    data        json        NOT NULL,
    occurred_at timestamptz NOT NULL,
    handled_at  timestamptz NOT NULL,
    changed     bigint      NOT NULL DEFAULT 0, -- rows
    PRIMARY KEY (activity_id, position, digest)
);

CREATE INDEX activity_correction_age ON activity_correction (handled_at);
