-- name: load_organizer
INSERT INTO organizer AS o (id, locale, time_zone) VALUES (:id, :locale, :time_zone)
ON CONFLICT (id) DO UPDATE
SET locale = coalesce(excluded.locale, o.locale), time_zone = coalesce(excluded.time_zone, o.time_zone);

-- name: load_merchant
INSERT INTO merchant (id, organizer_id) VALUES (:id, :organizer_id)
ON CONFLICT (id) DO UPDATE SET organizer_id = excluded.organizer_id;

-- name: load_merchant_of_member
-- A merchant that is known already stays where it is.
INSERT INTO merchant (id, organizer_id) VALUES (:id, :organizer_id)
ON CONFLICT (id) DO NOTHING;

-- name: load_locale
INSERT INTO recipient_locale (user_id, locale) VALUES (:user_id, :locale)
ON CONFLICT (user_id) DO UPDATE SET locale = excluded.locale;

-- name: load_role
INSERT INTO role (identifier) VALUES (:identifier)
ON CONFLICT DO NOTHING;

-- name: load_policy
INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
VALUES (:variant, 'User', :user_id, :target_type, :target_id, :domain)
ON CONFLICT DO NOTHING;

-- name: memberships_held
-- Above (after_user, after_domain, after_role), in their order. Among equal rows one 'deny' wins.
SELECT p.subject_id AS user_id, p.domain, p.target_id AS role, CAST(m.organizer_id AS text) AS organizer_id, l.locale
FROM policy_definition AS p
LEFT JOIN merchant AS m ON p.domain = 'Merchant_' || m.id
LEFT JOIN recipient_locale AS l ON l.user_id = p.subject_id
WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
    AND (substr(p.domain, 1, 10) = 'Organizer_' OR substr(p.domain, 1, 9) = 'Merchant_')
    AND (CAST(:user_id AS text) IS NULL OR p.subject_id = :user_id)
    AND (CAST(:role AS text) IS NULL OR p.target_id = :role)
    AND (CAST(:merchant_id AS text) IS NULL OR p.domain = 'Merchant_' || :merchant_id)
    AND (
        CAST(:organizer_id AS text) IS NULL
        OR p.domain = 'Organizer_' || :organizer_id OR CAST(m.organizer_id AS text) = :organizer_id
    )
    AND (p.subject_id, p.domain, p.target_id)
        > (CAST(:after_user AS text), CAST(:after_domain AS text), CAST(:after_role AS text))
GROUP BY p.subject_id, p.domain, p.target_id, m.organizer_id, l.locale
HAVING max(coalesce(p.effect, 'allow')) = 'allow'
ORDER BY p.subject_id, p.domain, p.target_id
LIMIT :limit;

-- name: grants_held
-- Above (after_user, after_variant, after_target), in their order. Among equal rows one 'deny' wins.
SELECT p.subject_id AS user_id, p.variant, p.target_id
FROM policy_definition AS p
WHERE p.subject_type = 'User' AND coalesce(p.domain, '') = ''
    AND (
        (p.variant = 'group' AND p.target_type = 'Role')
        OR (p.variant = 'policy' AND p.target_type = 'Permission')
    )
    AND (CAST(:user_id AS text) IS NULL OR p.subject_id = :user_id)
    AND (CAST(:role AS text) IS NULL OR (p.variant = 'group' AND p.target_id = :role))
    AND (CAST(:permission AS text) IS NULL OR (p.variant = 'policy' AND p.target_id = :permission))
    AND (p.subject_id, p.variant, p.target_id)
        > (CAST(:after_user AS text), CAST(:after_variant AS text), CAST(:after_target AS text))
GROUP BY p.subject_id, p.variant, p.target_id
HAVING max(coalesce(p.effect, 'allow')) = 'allow'
ORDER BY p.subject_id, p.variant, p.target_id
LIMIT :limit;

-- name: remove_policy
DELETE FROM policy_definition
WHERE subject_type = 'User' AND subject_id = :user_id AND target_id = :target_id
    AND coalesce(domain, '') = :domain AND variant = :variant AND target_type = :target_type
    AND coalesce(effect, 'allow') = 'allow';
