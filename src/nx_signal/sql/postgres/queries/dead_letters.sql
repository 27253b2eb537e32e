-- name: add_letters
INSERT INTO dead_letter (id, topic, partition, "offset", key, value, headers, error, created_at)
SELECT given.id, given.topic, given.partition, given."offset", given.key, given.value, given.headers,
       given.error, given.created_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], $7::json[],
            $8::text[], $9::timestamptz[])
     WITH ORDINALITY AS given (id, topic, partition, "offset", key, value, headers, error, created_at, ord)
ORDER BY given.ord
ON CONFLICT (topic, partition, "offset") DO NOTHING;

-- name: page_letters
SELECT id, topic, partition, "offset", key, value, headers, error, created_at
FROM dead_letter WHERE id < $1 ORDER BY id DESC LIMIT $2;

-- name: get_letter
SELECT id, topic, partition, "offset", key, value, headers, error, created_at
FROM dead_letter WHERE id = $1;

-- name: set_letter_error
UPDATE dead_letter SET error = $2 WHERE id = $1 RETURNING id;

-- name: remove_letter
DELETE FROM dead_letter WHERE id = $1 RETURNING id;
