-- name: add_correction
-- One that is delivered again stays as it was first handled.
INSERT INTO activity_correction (activity_id, position, digest, id, action, data, occurred_at, handled_at)
VALUES (:activity_id, :position, :digest, :id, :action, :data, :occurred_at, :handled_at)
ON CONFLICT (activity_id, position, digest) DO NOTHING;

-- name: added_correction
SELECT id, activity_id, action, position, occurred_at, handled_at, changed, data FROM activity_correction
WHERE activity_id = :activity_id AND position = :position AND digest = :digest;

-- name: corrections_of
-- The one that stands comes first.
SELECT id, activity_id, action, position, occurred_at, handled_at, changed, data FROM activity_correction
WHERE activity_id = :activity_id
ORDER BY action, occurred_at DESC, id DESC
LIMIT :limit;

-- name: remove_old_corrections
DELETE FROM activity_correction WHERE activity_id = :activity_id AND id IN (
    SELECT id FROM activity_correction
    WHERE activity_id = :activity_id
    ORDER BY action, occurred_at DESC, id DESC
    LIMIT 1000 OFFSET :kept
);

-- name: withdraw_correction
DELETE FROM activity_correction WHERE activity_id = :activity_id AND id = :id;

-- name: count_corrected
UPDATE activity_correction SET changed = changed + :many WHERE activity_id = :activity_id AND id = :id;

-- name: correctable_rows
SELECT
    id, recipient_id, activity_id, type, organizer_id, merchant_id, subject, locale, created_at, rendered_from,
    priority, expires_at, collapse_key
FROM activity_notification
WHERE activity_id = :activity_id AND recipient_id > :after
    AND (deleted_at IS NULL OR archived_at IS NOT NULL)
ORDER BY recipient_id
LIMIT :limit;

-- name: oldest_correction
SELECT handled_at FROM activity_correction ORDER BY handled_at LIMIT 1;

-- name: correction_beyond
SELECT handled_at FROM activity_correction ORDER BY handled_at DESC LIMIT 1 OFFSET :most;

-- name: remove_corrections
DELETE FROM activity_correction WHERE (activity_id, id) IN (
    SELECT activity_id, id FROM activity_correction
    WHERE handled_at <= :moment ORDER BY handled_at LIMIT :limit
);
