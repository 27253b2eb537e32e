-- name: in_hand
SELECT * FROM record_in_hand WHERE origin = :origin AND topic = :topic AND partition = :partition;

-- name: release_in_hand
DELETE FROM record_in_hand
WHERE owner = :owner AND origin = :origin AND topic = :topic AND partition = :partition;

-- name: release_all_in_hand
DELETE FROM record_in_hand WHERE owner = :owner;

-- name: touch_in_hand
UPDATE record_in_hand SET ended = ended WHERE owner = :owner;
