-- name: prepare_schema
-- The schema of the setting, should it not exist yet.
DO $$ BEGIN
    IF current_schema() IS NULL THEN
        EXECUTE 'CREATE SCHEMA IF NOT EXISTS ' || current_setting('search_path');
    END IF;
END $$;

-- name: schema_tables
-- Releases of before kept their steps in schema_version and schema_addition; other programs have tables of these
-- names, too.
SELECT to_regclass('signal_schema') IS NOT NULL AS own,
       (SELECT count(*) = 3 AND bool_and(attname IN ('version', 'name', 'applied_at')) FROM pg_attribute
        WHERE attrelid = to_regclass('schema_version') AND attnum > 0 AND NOT attisdropped) AS versions,
       to_regclass('schema_addition') IS NOT NULL AS additions;

-- name: schema_steps
SELECT version, name, additive FROM signal_schema;

-- name: schema_version
SELECT version, name::text AS name FROM schema_version;

-- name: schema_addition
SELECT version, name FROM schema_addition;

-- name: create_schema_steps
CREATE TABLE IF NOT EXISTS signal_schema (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    additive   boolean     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
-- Tables of another program that are used as they are.
CREATE TABLE IF NOT EXISTS signal_adopted (name text PRIMARY KEY);

-- name: add_schema_step
INSERT INTO signal_schema (version, name, additive, applied_at) VALUES (:version, :name, :additive, :applied_at);

-- name: add_schema_version
INSERT INTO schema_version (version, name, applied_at) VALUES (:version, :name, :applied_at);

-- name: adopted
SELECT name FROM signal_adopted;

-- name: add_adopted
INSERT INTO signal_adopted (name) VALUES (:name);

-- name: relations
-- A row for each column of what has one of these names in the schema; types collide with tables.
SELECT c.relname::text AS name, a.attname::text AS "column", t.typcategory::text AS category, c.relkind::text AS kind
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND c.relname = ANY (:names::text[])
UNION ALL
SELECT t.typname::text, NULL, NULL, 'type'
FROM pg_type t
WHERE t.typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND t.typrelid = 0 AND t.typname = ANY (:names::text[]);

-- name: seed_permission
INSERT INTO permission (code)
SELECT given.code FROM unnest(:codes::text[]) AS given (code)
WHERE NOT EXISTS (SELECT FROM permission p WHERE p.code = given.code);

-- name: seed_role
INSERT INTO role (identifier)
SELECT :role::text WHERE NOT EXISTS (SELECT FROM role WHERE identifier = :role::text);

-- name: seed_grants
INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id)
SELECT 'policy', 'Role', :role::text, 'Permission', given.code FROM unnest(:codes::text[]) AS given (code)
WHERE NOT EXISTS (
    SELECT FROM policy_definition p
    WHERE p.variant = 'policy' AND p.subject_type = 'Role' AND p.subject_id = :role::text
      AND p.target_type = 'Permission' AND p.target_id = given.code
);

-- name: begin_step
-- The second of two instances waits for the first.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = 0;
SELECT pg_advisory_xact_lock(1397311310, -1);

-- name: release_leases
SELECT pg_advisory_unlock_all();

-- name: greatest_id
SELECT greatest((SELECT max(id) FROM activity_notification), (SELECT max(id) FROM dead_letter), 0);

-- name: session_facts
SELECT pg_backend_pid() AS pid,
       pg_postmaster_start_time()::text AS server,
       current_setting('server_version_num')::integer AS version,
       current_setting('server_encoding') AS encoding,
       current_setting('client_encoding') AS client_encoding,
       CASE
           WHEN pg_is_in_recovery() THEN 'it is a standby'
           WHEN current_setting('default_transaction_read_only') = 'on' THEN 'it is read-only'
       END AS read_only;

-- name: own_search_path
-- Where an installation is, should the role or the database have another search_path.
(
    SELECT quote_ident(coalesce(
        (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('activity_notification')),
        'public'
    ))
);

-- name: read_only
SELECT CASE
    WHEN pg_is_in_recovery() THEN 'it is a standby'
    WHEN current_setting('default_transaction_read_only') = 'on' THEN 'it is read-only'
END AS reason;

-- name: missing_rights
SELECT need.privilege || ' on ' || need.name AS missing
FROM unnest(:tables::text[], :rights::text[]) AS need (name, privilege)
WHERE NOT has_table_privilege(to_regclass(need.name), need.privilege);
