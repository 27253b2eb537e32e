-- additive: releases that know the steps before this one go on working beside this one.

-- The records that a process handles: what it did not survive is found by the next one.
CREATE TABLE record_in_hand (
    origin       text    NOT NULL, -- the journal; '' is Kafka
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    owner        text    NOT NULL, -- the process
    first_offset bigint  NOT NULL,
    last_offset  bigint  NOT NULL,
    ended        integer NOT NULL, -- processes that ended with these in hand
    PRIMARY KEY (origin, topic, partition)
);
