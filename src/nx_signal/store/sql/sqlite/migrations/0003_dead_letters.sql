CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    key BLOB, -- bytes: whatever a hostile key holds
    value BLOB NOT NULL,
    headers TEXT NOT NULL, -- JSON, name to base64
    error TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (topic, partition, "offset")
);
