-- additive: releases that know the steps before this one go on working beside this one.

-- One row: the secret that the instances of this store share. From it they derive the names of their channels on
-- a server that others use too, and recognize each other's messages.
CREATE TABLE signal_deployment (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    secret TEXT NOT NULL
);
INSERT INTO signal_deployment (id, secret) VALUES (1, hex(randomblob(32)));
