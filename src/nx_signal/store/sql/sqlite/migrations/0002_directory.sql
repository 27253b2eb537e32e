-- Memberships: variant group, User to Role, domain Organizer_{id} or Merchant_{id}.
-- A user's role: the same with domain ''. Grants: variant policy, User or Role to Permission, domain ''.
-- Others insert here too: what is not essential has a default, which also takes the place of NULL.

CREATE TABLE policy_definition (
    id INTEGER PRIMARY KEY,
    variant TEXT NOT NULL CHECK (variant IN ('policy', 'group')),
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    target_type TEXT NOT NULL,
    target_id TEXT NOT NULL, -- a role's identifier, a permission's code
    action TEXT NOT NULL ON CONFLICT REPLACE DEFAULT '',
    effect TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'allow' CHECK (effect IN ('allow', 'deny')),
    domain TEXT NOT NULL ON CONFLICT REPLACE DEFAULT '',
    UNIQUE (variant, subject_type, subject_id, target_type, target_id, action, effect, domain)
);

-- the members of a domain
CREATE INDEX policy_definition_domain ON policy_definition
    (domain, variant, subject_type, target_type, subject_id, target_id, effect);

CREATE TABLE permission (code TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE role (identifier TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE recipient_locale (user_id TEXT PRIMARY KEY, locale TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE organizer (id TEXT PRIMARY KEY, locale TEXT) WITHOUT ROWID;

CREATE TABLE merchant (
    id TEXT PRIMARY KEY,
    organizer_id TEXT NOT NULL REFERENCES organizer (id)
) WITHOUT ROWID;

CREATE INDEX merchant_organizer ON merchant (organizer_id);

INSERT INTO permission (code) VALUES
    ('WebSocketClient.find'),
    ('WebSocketClient.findById'),
    ('WebSocketClient.broadcast'),
    ('WebSocketClient.sendToRoom'),
    ('WebSocketClient.sendToClient'),
    ('WebSocketClient.disconnect'),
    ('Activity.publish'),
    ('Activity.preview'),
    ('Activity.explain'),
    ('DeadLetter.find'),
    ('DeadLetter.replay'),
    ('DeadLetter.delete');

INSERT INTO role (identifier) VALUES ('signal-operator');

INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id)
SELECT 'policy', 'Role', 'signal-operator', 'Permission', code FROM permission;
