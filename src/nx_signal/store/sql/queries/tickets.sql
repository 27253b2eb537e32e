-- name: add_ticket
INSERT INTO ticket (hash, user_id, purpose, claims, token_expires_at, expires_at)
VALUES (:hash, :user_id, :purpose, :claims, :token_expires_at, :expires_at);

-- name: use_ticket
DELETE FROM ticket WHERE hash = :hash RETURNING user_id, purpose, claims, token_expires_at, expires_at;

-- name: remove_oldest_tickets
-- Of a user, all but the last `keep` to expire.
DELETE FROM ticket WHERE hash IN (
    SELECT hash FROM ticket WHERE user_id = :user_id ORDER BY expires_at DESC, hash LIMIT :limit OFFSET :keep
);

-- name: remove_expired_tickets
DELETE FROM ticket WHERE hash IN (
    SELECT hash FROM ticket WHERE expires_at <= :moment ORDER BY expires_at LIMIT :limit
);
