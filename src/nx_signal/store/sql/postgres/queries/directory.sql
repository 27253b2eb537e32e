-- A group row with a domain is a membership there; without one it gives the user a role everywhere.
-- Among equal rows one 'deny' wins.

-- name: audiences
WITH member AS (
    SELECT asked.ord - 1 AS index, p.subject_id COLLATE "C" AS user_id
    FROM (
        SELECT value ->> 0 AS organizer_id, value ->> 1 AS merchant_id, ord
        FROM json_array_elements(:keys::json) WITH ORDINALITY AS key (value, ord)
    ) AS asked
    CROSS JOIN LATERAL (
        SELECT 'Organizer_' || asked.organizer_id AS domain WHERE asked.merchant_id IS NULL
        UNION ALL
        SELECT 'Merchant_' || m.id FROM merchant m
        WHERE m.organizer_id::text = asked.organizer_id
          AND (asked.merchant_id IS NULL OR m.id::text = asked.merchant_id)
    ) place
    JOIN policy_definition p ON p.domain = place.domain
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
      AND p.subject_id COLLATE "C" > :after
    GROUP BY asked.ord, p.domain, p.subject_id, p.target_id
    HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny')
), numbered AS (
    SELECT index, user_id, row_number() OVER (PARTITION BY index ORDER BY user_id) AS n
    FROM (SELECT DISTINCT index, user_id FROM member) AS once
)
SELECT index, user_id FROM numbered WHERE n <= :limit::bigint ORDER BY index, user_id;

-- name: reader_settings
SELECT asked.ord - 1 AS index, coalesce(l.locale, o.locale) AS locale, o.time_zone
FROM json_array_elements(:readers::json) WITH ORDINALITY AS asked (value, ord)
LEFT JOIN recipient_locale l ON l.user_id = asked.value ->> 0
LEFT JOIN organizer o ON o.id = asked.value ->> 1
WHERE coalesce(l.locale, o.locale, o.time_zone) IS NOT NULL;

-- name: memberships
-- With the organizer of a merchant's domain; substr cuts 'Merchant_' off.
SELECT p.subject_id, p.domain, m.organizer_id::text AS organizer_id
FROM policy_definition p
LEFT JOIN merchant m ON p.domain LIKE 'Merchant\_%' AND m.id::text = substr(p.domain, 10)
WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.subject_id = ANY (:user_ids::text[])
  AND p.target_type = 'Role' AND p.domain <> ''
GROUP BY p.subject_id, p.domain, p.target_id, m.organizer_id
HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny');

-- name: permissions
WITH held AS (
    SELECT unnest(:roles::text[]) AS role
    UNION
    SELECT p.target_id FROM policy_definition p
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.subject_id = :user_id AND p.target_type = 'Role'
      AND coalesce(p.domain, '') = ''
    GROUP BY p.target_id HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny')
), subject AS (
    SELECT 'User' AS type, :user_id AS id
    UNION ALL
    SELECT 'Role', role FROM held
)
SELECT p.target_id AS code
FROM subject s
JOIN policy_definition p ON p.subject_type = s.type AND p.subject_id = s.id
WHERE p.variant = 'policy' AND p.target_type = 'Permission' AND coalesce(p.domain, '') = ''
GROUP BY p.target_id HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny');

-- name: memberships_within
-- Of these organizations, of their merchants, and of these merchants.
SELECT p.subject_id AS user_id, p.domain, p.target_id AS role, m.organizer_id::text AS organizer_id, l.locale
FROM policy_definition AS p
LEFT JOIN merchant AS m ON p.domain = 'Merchant_' || m.id
LEFT JOIN recipient_locale AS l ON l.user_id = p.subject_id
WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
    AND p.domain IN (
        SELECT 'Organizer_' || id FROM unnest(:organizer_ids::text[]) AS given (id)
        UNION ALL
        SELECT 'Merchant_' || id FROM unnest(:merchant_ids::text[]) AS given (id)
        UNION ALL
        SELECT 'Merchant_' || id FROM merchant WHERE organizer_id::text = ANY (:organizer_ids::text[])
    )
GROUP BY p.subject_id, p.domain, p.target_id, m.organizer_id, l.locale
HAVING max(coalesce(p.effect, 'allow')) = 'allow'
ORDER BY p.subject_id, p.domain, p.target_id;
