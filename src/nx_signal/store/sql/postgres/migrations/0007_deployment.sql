-- additive: releases that know the steps before this one go on working beside this one.

-- One row: the secret that the instances of this store share. From it they derive the names of their channels on
-- a server that others use too, and recognize each other's messages.
CREATE TABLE signal_deployment (
    id integer PRIMARY KEY CHECK (id = 1),
    secret text NOT NULL
);
INSERT INTO signal_deployment (id, secret) VALUES (1, gen_random_uuid()::text || gen_random_uuid()::text);
