-- name: lock_tickets
-- There is one writer.
SELECT 1;
