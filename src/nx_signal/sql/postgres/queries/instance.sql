-- name: has_schema_version
SELECT to_regclass('schema_version') IS NOT NULL;

-- name: schema_version
SELECT coalesce(max(version), 0) FROM schema_version;

-- name: make_schema_version
CREATE TABLE IF NOT EXISTS schema_version (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: add_schema_version
INSERT INTO schema_version (version, name) VALUES ($1, $2);

-- name: lock_migrations
SELECT pg_advisory_xact_lock($1::integer, -1);

-- name: lease_worker_id
-- Held by the connection: the lease ends with it.
SELECT pg_try_advisory_lock($1::integer, $2::integer);

-- name: release_leases
SELECT pg_advisory_unlock_all();

-- name: greatest_id
SELECT greatest(
    (SELECT max(id) FROM activity_notification), (SELECT max(id) FROM dead_letter), 0
);
