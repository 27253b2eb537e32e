-- name: mark_in_hand
-- It has to outlive this process, not the server: the commit does not wait for the disk.
INSERT INTO record_in_hand AS h (origin, topic, partition, owner, first_offset, last_offset, ended)
SELECT a.origin, a.topic, a.partition, :owner, a.first_offset, a.last_offset, a.ended
FROM json_to_recordset(:marks::json) AS a (
    origin text, topic text, partition integer, first_offset bigint, last_offset bigint, ended integer
)
WHERE set_config('synchronous_commit', 'off', true) = 'off'
ON CONFLICT (origin, topic, partition) DO UPDATE
SET owner = excluded.owner, first_offset = excluded.first_offset, last_offset = excluded.last_offset,
    ended = excluded.ended
WHERE CAST(:force AS boolean) OR h.owner = excluded.owner
    OR h.last_offset < excluded.first_offset OR h.first_offset > excluded.last_offset
RETURNING origin, topic, partition;
