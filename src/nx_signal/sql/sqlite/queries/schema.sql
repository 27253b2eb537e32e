-- name: create_schema_version
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at INTEGER NOT NULL
);

-- name: schema_version
SELECT coalesce(max(version), 0) FROM schema_version;

-- name: write_schema_version
INSERT INTO schema_version (version, name, applied_at) VALUES (:version, :name, :applied_at);

-- name: greatest_id
-- The greatest id ever written, for the generator to start above.
SELECT max(
    coalesce((SELECT max(id) FROM activity_notification), 0),
    coalesce((SELECT max(id) FROM dead_letter), 0)
);
