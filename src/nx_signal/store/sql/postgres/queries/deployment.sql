-- name: copy_is_known
SELECT has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE') AS known;

-- name: copy
-- Other for a dump that was restored elsewhere, the same after a failover.
SELECT s.system_identifier || '/' || d.oid AS place
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database();
