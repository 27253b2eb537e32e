-- name: add_letter
INSERT INTO dead_letter (id, topic, partition, "offset", key, value, headers, error, created_at)
VALUES (:id, CASE WHEN EXISTS (
    SELECT 1 FROM dead_letter d
    WHERE d.topic = :topic AND d.partition = :partition AND d."offset" = :offset AND d.value <> :value
) THEN :other_topic ELSE :topic END, :partition, :offset, :key, :value, :headers, :error, :created_at)
ON CONFLICT (topic, partition, "offset") DO NOTHING;

-- name: letters
SELECT * FROM dead_letter WHERE id < :before_id ORDER BY id DESC LIMIT :limit;

-- name: letter
SELECT * FROM dead_letter WHERE id = :id;

-- name: set_letter_error
UPDATE dead_letter SET error = :error WHERE id = :id;

-- name: remove_letter
DELETE FROM dead_letter WHERE id = :id;

-- name: oldest_letter
SELECT id FROM dead_letter ORDER BY id LIMIT 1;

-- name: letter_beyond
SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET :most;

-- name: remove_letters
DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE id <= :id ORDER BY id LIMIT :limit);
