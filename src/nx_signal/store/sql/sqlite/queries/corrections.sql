-- name: standing_corrections
SELECT id, activity_id, action, position, occurred_at, handled_at, changed, data
FROM (
    SELECT k.*, row_number() OVER (
        PARTITION BY k.activity_id ORDER BY k.action, k.occurred_at DESC, k.id DESC
    ) AS place
    FROM activity_correction AS k
    WHERE k.activity_id IN (SELECT value FROM json_each(:activity_ids))
) AS ranked
WHERE place = 1;

-- name: correct_rows
-- A row that has the content already stays as it is. One that an unapplied read-all covers is marked: this change of
-- it is the newer one.
UPDATE activity_notification
SET content = given.content, content_html = given.content_html, action_url = given.action_url, data = :data,
    modified_at = :modified_at, changed_rev = given.rev, is_read = given.is_read, read_at = given.read_at
FROM (
    SELECT
        json_extract(r.value, '$.id') AS row_id, json_extract(r.value, '$.recipient_id') AS owner,
        json_extract(r.value, '$.rev') AS rev, json_extract(t.value, '$.content') AS content,
        json_extract(t.value, '$.content_html') AS content_html,
        json_extract(t.value, '$.action_url') AS action_url, seen.is_read, seen.read_at
    FROM json_each(:rows) AS r
    CROSS JOIN reached_row AS seen
        ON seen.id = json_extract(r.value, '$.id')
        AND seen.recipient_id = json_extract(r.value, '$.recipient_id')
    JOIN json_each(:texts) AS t ON json_extract(t.value, '$.text') = json_extract(r.value, '$.text')
) AS given
WHERE activity_notification.id = given.row_id AND activity_notification.recipient_id = given.owner
    AND (activity_notification.deleted_at IS NULL OR activity_notification.archived_at IS NOT NULL)
    AND (
        activity_notification.content <> given.content
        OR activity_notification.content_html <> given.content_html
        OR activity_notification.action_url IS NOT given.action_url
        OR activity_notification.data <> :data
    )
RETURNING id, recipient_id;
