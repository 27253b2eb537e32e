-- name: letter_beyond_bytes
-- These are known without reading the values.
SELECT id FROM (
    SELECT id, sum(bytes) OVER (ORDER BY id DESC) AS total
    FROM (
        SELECT id, length(value) + coalesce(length(key), 0) + pg_column_size(headers) AS bytes
        FROM dead_letter ORDER BY id DESC LIMIT :most
    ) AS newest
) AS added
WHERE total > :most_bytes
ORDER BY id DESC
LIMIT 1;
