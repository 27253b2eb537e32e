-- additive: releases that know the steps before this one go on working beside this one.

INSERT INTO permission (code) VALUES ('Health.find') ON CONFLICT DO NOTHING;

INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id)
VALUES ('policy', 'Role', 'signal-operator', 'Permission', 'Health.find')
ON CONFLICT DO NOTHING;
