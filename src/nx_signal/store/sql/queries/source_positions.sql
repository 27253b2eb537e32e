-- name: source_positions
SELECT * FROM source_position WHERE group_id = :group_id AND topic = :topic;

-- name: begin_source_position
INSERT INTO source_position (group_id, topic, partition) VALUES (:group_id, :topic, :partition)
ON CONFLICT (group_id, topic, partition) DO NOTHING;

-- name: save_source_position
INSERT INTO source_position (group_id, topic, partition, topic_id, first_offset, next_offset)
VALUES (:group_id, :topic, :partition, :topic_id, :first_offset, :next_offset)
ON CONFLICT (group_id, topic, partition) DO UPDATE
SET topic_id = excluded.topic_id, first_offset = excluded.first_offset, next_offset = excluded.next_offset;
