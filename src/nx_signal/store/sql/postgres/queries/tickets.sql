-- name: lock_tickets
-- Those of one user, until the end of the transaction: two additions at once would each keep too many.
SELECT pg_advisory_xact_lock(:namespace::integer, hashtext(:user_id::text));
