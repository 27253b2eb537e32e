-- additive: releases that know the steps before this one go on working beside this one.

-- What stands in for a token once. A ticket itself is not stored.
CREATE TABLE ticket (
    hash TEXT PRIMARY KEY, -- SHA-256, hexadecimal
    user_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    claims TEXT NOT NULL, -- JSON: of the token that it was made with
    token_expires_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX ticket_of_user ON ticket (user_id, expires_at);
CREATE INDEX ticket_expiry ON ticket (expires_at);
