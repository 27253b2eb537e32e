-- name: copy_is_known
SELECT 0 AS known;

-- name: copy
SELECT '' AS place;
