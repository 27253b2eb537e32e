-- name: standing_corrections
SELECT id, activity_id, action, position, occurred_at, handled_at, changed, data
FROM (
    SELECT k.*, row_number() OVER (
        PARTITION BY k.activity_id ORDER BY k.action, k.occurred_at DESC, k.id DESC
    ) AS place
    FROM activity_correction k
    WHERE k.activity_id = ANY (:activity_ids::text[])
) AS ranked
WHERE place = 1;

-- name: correct_rows
-- A row that has the content already stays as it is. One that an unapplied read-all covers is marked: this change of
-- it is the newer one.
UPDATE activity_notification n
SET content = given.content, content_html = given.content_html, action_url = given.action_url,
    data = CAST(CAST(:data AS text) AS json), modified_at = :modified_at, changed_rev = given.rev,
    is_read = given.is_read, read_at = given.read_at
FROM (
    SELECT r.*, t.content, t.content_html, t.action_url, seen.is_read, seen.read_at
    FROM json_to_recordset(:rows::json) AS r (id bigint, recipient_id text, rev bigint, text bigint)
    JOIN reached_row seen ON seen.id = r.id AND seen.recipient_id = r.recipient_id
    JOIN json_to_recordset(:texts::json) AS t (text bigint, content text, content_html text, action_url text)
        USING (text)
) AS given
WHERE n.id = given.id AND n.recipient_id = given.recipient_id
    AND (n.deleted_at IS NULL OR n.archived_at IS NOT NULL)
    AND (n.content, n.content_html, n.action_url, CAST(n.data AS text))
        IS DISTINCT FROM (given.content, given.content_html, given.action_url, CAST(:data AS text))
RETURNING n.id, n.recipient_id;
