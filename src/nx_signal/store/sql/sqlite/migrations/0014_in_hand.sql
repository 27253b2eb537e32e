-- additive: releases that know the steps before this one go on working beside this one.

-- The records that a process handles: what it did not survive is found by the next one.
CREATE TABLE record_in_hand (
    origin TEXT NOT NULL, -- the journal; '' is Kafka
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT NOT NULL, -- the process
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    ended INTEGER NOT NULL, -- processes that ended with these in hand
    PRIMARY KEY (origin, topic, partition)
) WITHOUT ROWID;
