-- name: prepare_schema
SELECT 1;

-- name: schema_tables
SELECT
    0 AS own,
    count(*) FILTER (WHERE name = 'schema_version') > 0 AS versions,
    count(*) FILTER (WHERE name = 'schema_addition') > 0 AS additions
FROM sqlite_master
WHERE type = 'table';

-- name: schema_steps
SELECT version, name, 0 AS additive FROM schema_version;

-- name: schema_version
SELECT version, name FROM schema_version;

-- name: schema_addition
SELECT version, name FROM schema_addition;

-- name: create_schema_steps
-- Steps that releases of before can work with are in schema_addition: these look at schema_version alone.
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS schema_addition (version integer PRIMARY KEY, name text NOT NULL);

-- name: add_schema_step
INSERT INTO schema_addition (version, name) SELECT :version, :name WHERE :additive;
INSERT INTO schema_version (version, name, applied_at) SELECT :version, :name, :applied_at WHERE NOT :additive;

-- name: add_schema_version
INSERT INTO schema_version (version, name, applied_at) VALUES (:version, :name, :applied_at);

-- name: adopted
SELECT NULL AS name WHERE 0;

-- name: add_adopted
SELECT :name;

-- name: seed_permission
SELECT :codes;

-- name: seed_role
SELECT :role;

-- name: seed_grants
SELECT :role, :codes;

-- name: relations
-- The file is this service's alone.
SELECT NULL AS name, NULL AS "column", NULL AS category, NULL AS kind WHERE 0;

-- name: begin_step
-- The transaction holds the file's one write lock.
SELECT 1;

-- name: greatest_id
-- The greatest id ever written, for the generator to start above.
SELECT max(
    coalesce((SELECT max(id) FROM activity_notification), 0),
    coalesce((SELECT max(id) FROM dead_letter), 0)
);

-- name: read_only
SELECT NULL AS reason;

-- name: missing_rights
-- A file has no rights of single tables.
SELECT NULL AS missing WHERE :tables IS NULL AND :rights IS NULL;
