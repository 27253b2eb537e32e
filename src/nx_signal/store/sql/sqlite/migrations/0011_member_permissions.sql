-- additive: releases that know the steps before this one go on working beside this one.

INSERT INTO permission (code) VALUES
    ('Member.find'),
    ('Member.create'),
    ('Member.replace'),
    ('Member.delete'),
    ('Grant.find'),
    ('Grant.create'),
    ('Grant.delete')
ON CONFLICT DO NOTHING;

INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id)
SELECT 'policy', 'Role', 'signal-operator', 'Permission', code FROM permission
WHERE code LIKE 'Member.%' OR code LIKE 'Grant.%'
ON CONFLICT DO NOTHING;
