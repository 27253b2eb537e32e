-- additive: releases that know the steps before this one go on working beside this one.

-- What the first rendering was made from, beside the row's own fields (JSON), for a later one in another language.
-- NULL in rows that a release of before wrote.
ALTER TABLE activity_notification ADD COLUMN rendered_from text;

-- An IANA name. NULL: the deployment's.
ALTER TABLE organizer ADD COLUMN time_zone text;
