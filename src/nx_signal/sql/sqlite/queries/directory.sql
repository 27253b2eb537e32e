-- CROSS JOIN keeps the order of the loops as written: keys first, then rows by index.
-- Within a group of equal rows max(effect) = 'allow' means that none of them is 'deny'.

-- name: audiences
WITH asked AS (
    SELECT
        key AS n,
        json_extract(value, '$[0]') AS organizer_id,
        json_extract(value, '$[1]') AS merchant_id
    FROM json_each(:keys)
),
reached (n, domain) AS (
    SELECT n, 'Organizer_' || organizer_id FROM asked WHERE merchant_id IS NULL
    UNION ALL
    SELECT asked.n, 'Merchant_' || merchant.id
    FROM asked
    CROSS JOIN merchant ON merchant.organizer_id = asked.organizer_id
    WHERE asked.merchant_id IS NULL OR asked.merchant_id = merchant.id
),
member (n, user_id) AS (
    SELECT reached.n, p.subject_id
    FROM reached
    CROSS JOIN policy_definition AS p ON p.domain = reached.domain
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
    GROUP BY reached.n, p.domain, p.subject_id, p.target_id
    HAVING max(p.effect) = 'allow'
)
SELECT DISTINCT n, user_id FROM member ORDER BY n, user_id;

-- name: locales
SELECT asked.key AS n, coalesce(r.locale, o.locale) AS locale
FROM json_each(:readers) AS asked
LEFT JOIN recipient_locale AS r ON r.user_id = json_extract(asked.value, '$[0]')
LEFT JOIN organizer AS o ON o.id = json_extract(asked.value, '$[1]')
WHERE coalesce(r.locale, o.locale) IS NOT NULL;

-- name: memberships
-- A merchant's organizer comes along with it; substr cuts 'Merchant_' off.
SELECT p.subject_id, p.domain, merchant.organizer_id
FROM policy_definition AS p
LEFT JOIN merchant ON p.domain LIKE 'Merchant\_%' ESCAPE '\' AND merchant.id = substr(p.domain, 10)
WHERE p.variant = 'group' AND p.subject_type = 'User'
    AND p.subject_id IN (SELECT value FROM json_each(:user_ids))
    AND p.target_type = 'Role' AND p.domain <> ''
GROUP BY p.subject_id, p.domain, p.target_id
HAVING max(p.effect) = 'allow';

-- name: permissions
WITH held (role) AS (
    SELECT value FROM json_each(:roles)
    UNION
    SELECT target_id
    FROM policy_definition
    WHERE variant = 'group' AND subject_type = 'User' AND subject_id = :user_id
        AND target_type = 'Role' AND domain = ''
    GROUP BY target_id
    HAVING max(effect) = 'allow'
)
SELECT target_id AS code
FROM policy_definition
WHERE variant = 'policy' AND target_type = 'Permission' AND domain = ''
    AND (
        (subject_type = 'User' AND subject_id = :user_id)
        OR (subject_type = 'Role' AND subject_id IN (SELECT role FROM held))
    )
GROUP BY target_id
HAVING max(effect) = 'allow';

-- name: write_organizer
INSERT INTO organizer (id, locale) VALUES (:id, :locale)
ON CONFLICT (id) DO UPDATE SET locale = coalesce(excluded.locale, locale);

-- name: write_merchant
INSERT INTO merchant (id, organizer_id) VALUES (:id, :organizer_id)
ON CONFLICT (id) DO UPDATE SET organizer_id = excluded.organizer_id;

-- name: add_merchant
INSERT INTO merchant (id, organizer_id) VALUES (:id, :organizer_id)
ON CONFLICT DO NOTHING;

-- name: write_locale
INSERT INTO recipient_locale (user_id, locale) VALUES (:user_id, :locale)
ON CONFLICT (user_id) DO UPDATE SET locale = excluded.locale;

-- name: add_role
INSERT INTO role (identifier) VALUES (:identifier)
ON CONFLICT DO NOTHING;

-- name: add_policy
INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
VALUES (:variant, 'User', :user_id, :target_type, :target_id, :domain)
ON CONFLICT DO NOTHING;
