-- additive: releases that know the steps before this one go on working beside this one.

-- Corrections and retractions of activities, kept also where the activity itself is still to come. Of one activity
-- that stands which comes first by (action, occurred_at descending, id descending): a retraction is final. Pruned by
-- age.
CREATE TABLE activity_correction (
    activity_id TEXT NOT NULL,
    position TEXT NOT NULL, -- topic/partition/offset
    digest TEXT NOT NULL,
    id INTEGER NOT NULL,
    action TEXT NOT NULL,
    data TEXT NOT NULL, -- JSON
    occurred_at INTEGER NOT NULL,
    handled_at INTEGER NOT NULL,
    changed INTEGER NOT NULL DEFAULT 0, -- rows
    PRIMARY KEY (activity_id, position, digest)
) WITHOUT ROWID;

CREATE INDEX activity_correction_age ON activity_correction (handled_at);
