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
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role' AND p.subject_id > :after
    GROUP BY reached.n, p.domain, p.subject_id, p.target_id
    HAVING max(p.effect) = 'allow'
),
numbered (n, user_id, place) AS (
    SELECT n, user_id, row_number() OVER (PARTITION BY n ORDER BY user_id)
    FROM (SELECT DISTINCT n, user_id FROM member)
)
SELECT n AS "index", user_id FROM numbered WHERE place <= :limit ORDER BY n, user_id;

-- name: reader_settings
SELECT asked.key AS "index", coalesce(r.locale, o.locale) AS locale, o.time_zone
FROM json_each(:readers) AS asked
LEFT JOIN recipient_locale AS r ON r.user_id = json_extract(asked.value, '$[0]')
LEFT JOIN organizer AS o ON o.id = json_extract(asked.value, '$[1]')
WHERE coalesce(r.locale, o.locale, o.time_zone) IS NOT NULL;

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

-- name: memberships_within
-- Of these organizations, of their merchants, and of these merchants.
SELECT p.subject_id AS user_id, p.domain, p.target_id AS role, m.organizer_id, l.locale
FROM policy_definition AS p
LEFT JOIN merchant AS m ON p.domain = 'Merchant_' || m.id
LEFT JOIN recipient_locale AS l ON l.user_id = p.subject_id
WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
    AND p.domain IN (
        SELECT 'Organizer_' || value FROM json_each(:organizer_ids)
        UNION ALL
        SELECT 'Merchant_' || value FROM json_each(:merchant_ids)
        UNION ALL
        SELECT 'Merchant_' || id FROM merchant WHERE organizer_id IN (SELECT value FROM json_each(:organizer_ids))
    )
GROUP BY p.subject_id, p.domain, p.target_id, m.organizer_id, l.locale
HAVING max(coalesce(p.effect, 'allow')) = 'allow'
ORDER BY p.subject_id, p.domain, p.target_id;
