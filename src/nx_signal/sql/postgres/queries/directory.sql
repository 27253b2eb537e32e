-- A group row with a domain is a membership there; without one it gives the user a role everywhere.
-- Among equal rows one 'deny' wins.

-- name: audiences
WITH member AS (
    SELECT asked.ord - 1 AS index, p.subject_id COLLATE "C" AS user_id
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (organizer_id, merchant_id, ord)
    CROSS JOIN LATERAL (
        SELECT 'Organizer_' || asked.organizer_id AS domain WHERE asked.merchant_id IS NULL
        UNION ALL
        SELECT 'Merchant_' || m.id FROM merchant m
        WHERE m.organizer_id = asked.organizer_id
          AND (asked.merchant_id IS NULL OR m.id = asked.merchant_id)
    ) place
    JOIN policy_definition p ON p.domain = place.domain
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.target_type = 'Role'
    GROUP BY asked.ord, p.domain, p.subject_id, p.target_id
    HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny')
)
SELECT DISTINCT index, user_id FROM member ORDER BY index, user_id;

-- name: locales
SELECT DISTINCT asked.user_id, asked.organizer_id, coalesce(l.locale, o.locale) AS locale
FROM unnest($1::text[], $2::text[]) AS asked (user_id, organizer_id)
LEFT JOIN recipient_locale l ON l.user_id = asked.user_id
LEFT JOIN organizer o ON o.id = asked.organizer_id
WHERE coalesce(l.locale, o.locale) IS NOT NULL;

-- name: memberships
-- With the organizer of a merchant's domain; substr cuts 'Merchant_' off.
SELECT p.subject_id, p.domain, m.organizer_id
FROM policy_definition p
LEFT JOIN merchant m ON p.domain LIKE 'Merchant\_%' AND m.id = substr(p.domain, 10)
WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.subject_id = ANY ($1::text[])
  AND p.target_type = 'Role' AND p.domain <> ''
GROUP BY p.subject_id, p.domain, p.target_id, m.organizer_id
HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny');

-- name: permissions
WITH held AS (
    SELECT unnest($2::text[]) AS role
    UNION
    SELECT p.target_id FROM policy_definition p
    WHERE p.variant = 'group' AND p.subject_type = 'User' AND p.subject_id = $1 AND p.target_type = 'Role'
      AND coalesce(p.domain, '') = ''
    GROUP BY p.target_id HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny')
), subject AS (
    SELECT 'User' AS type, $1 AS id
    UNION ALL
    SELECT 'Role', role FROM held
)
SELECT p.target_id AS code
FROM subject s
JOIN policy_definition p ON p.subject_type = s.type AND p.subject_id = s.id
WHERE p.variant = 'policy' AND p.target_type = 'Permission' AND coalesce(p.domain, '') = ''
GROUP BY p.target_id HAVING bool_and(coalesce(p.effect, 'allow') <> 'deny');

-- name: load_organizers
INSERT INTO organizer AS o (id, locale)
SELECT * FROM unnest($1::text[], $2::text[]) AS given (id, locale) ORDER BY id
ON CONFLICT (id) DO UPDATE SET locale = coalesce(excluded.locale, o.locale);

-- name: load_merchants
INSERT INTO merchant (id, organizer_id)
SELECT * FROM unnest($1::text[], $2::text[]) AS given (id, organizer_id) ORDER BY id
ON CONFLICT (id) DO UPDATE SET organizer_id = excluded.organizer_id;

-- name: load_merchants_of_members
-- A merchant that is known already stays where it is.
INSERT INTO merchant (id, organizer_id)
SELECT * FROM unnest($1::text[], $2::text[]) AS given (id, organizer_id) ORDER BY id
ON CONFLICT (id) DO NOTHING;

-- name: load_locales
INSERT INTO recipient_locale (user_id, locale)
SELECT * FROM unnest($1::text[], $2::text[]) AS given (user_id, locale) ORDER BY user_id
ON CONFLICT (user_id) DO UPDATE SET locale = excluded.locale;

-- name: load_roles
INSERT INTO role (identifier)
SELECT * FROM unnest($1::text[]) AS given (identifier) ORDER BY identifier
ON CONFLICT DO NOTHING;

-- name: load_policies
INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
SELECT given.variant, 'User', given.user_id, given.target_type, given.target_id, given.domain
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
     AS given (variant, user_id, target_type, target_id, domain)
ORDER BY given.user_id, given.target_id, given.domain
ON CONFLICT DO NOTHING;
