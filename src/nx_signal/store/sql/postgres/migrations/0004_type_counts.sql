-- The counts of recipient_head for each type of its rows; changed under the head's lock.
CREATE TABLE recipient_type (
    recipient_id text   NOT NULL,
    type         text   NOT NULL,
    total        bigint NOT NULL,
    unread       bigint NOT NULL,
    PRIMARY KEY (recipient_id, type)
) WITH (fillfactor = 70);

INSERT INTO recipient_type (recipient_id, type, total, unread)
SELECT n.recipient_id, n.type, count(*), count(*) FILTER (WHERE NOT n.is_read AND u.rev IS NULL)
FROM activity_notification n
LEFT JOIN unsettled_read u
    ON u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev
    AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject)
WHERE n.deleted_at IS NULL
GROUP BY n.recipient_id, n.type;
