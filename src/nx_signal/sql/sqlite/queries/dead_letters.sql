-- name: add_dead_letter
INSERT INTO dead_letter (id, topic, partition, "offset", key, value, headers, error, created_at)
VALUES (:id, :topic, :partition, :offset, :key, :value, :headers, :error, :created_at)
ON CONFLICT (topic, partition, "offset") DO NOTHING;

-- name: dead_letters
SELECT * FROM dead_letter WHERE id < :before_id ORDER BY id DESC LIMIT :limit;

-- name: dead_letter
SELECT * FROM dead_letter WHERE id = :id;

-- name: set_dead_letter_error
UPDATE dead_letter SET error = :error WHERE id = :id;

-- name: remove_dead_letter
DELETE FROM dead_letter WHERE id = :id;
