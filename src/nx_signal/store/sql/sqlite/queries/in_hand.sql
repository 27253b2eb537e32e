-- name: mark_in_hand
INSERT INTO record_in_hand AS h (origin, topic, partition, owner, first_offset, last_offset, ended)
SELECT
    json_extract(value, '$.origin'), json_extract(value, '$.topic'), json_extract(value, '$.partition'), :owner,
    json_extract(value, '$.first_offset'), json_extract(value, '$.last_offset'), json_extract(value, '$.ended')
FROM json_each(:marks)
WHERE true
ON CONFLICT (origin, topic, partition) DO UPDATE
SET owner = excluded.owner, first_offset = excluded.first_offset, last_offset = excluded.last_offset,
    ended = excluded.ended
WHERE :force OR h.owner = excluded.owner
    OR h.last_offset < excluded.first_offset OR h.first_offset > excluded.last_offset
RETURNING origin, topic, partition;
