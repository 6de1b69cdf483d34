-- A tenant's branding and messages, the same in both modes.

CREATE TABLE store_configs (
    tenant_id     uuid PRIMARY KEY REFERENCES tenants,
    display_name  text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 200),
    logo_url      text CHECK (logo_url ~ '^https://' AND length(logo_url) <= 2048),
    brand_color   text CHECK (brand_color ~ '^#[0-9a-f]{6}$'),
    support_email text CHECK (support_email ~ '^[^@\s]+@[^@\s]+$' AND length(support_email) <= 254),
    support_phone text CHECK (support_phone ~ '^\+[1-9][0-9]{7,14}$'),
    time_zone     text NOT NULL DEFAULT 'Africa/Lagos' CHECK (length(time_zone) BETWEEN 1 AND 64),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE email_templates (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    kind       text NOT NULL CHECK (kind IN
               ('receipt', 'payment_failed', 'update_card', 'trial_ending', 'cancelled', 'recovered')),
    subject    text NOT NULL CHECK (length(subject) BETWEEN 1 AND 300),
    body       text NOT NULL CHECK (length(body) BETWEEN 1 AND 100000),
    enabled    boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind)
);

-- For one member, or with a null member_id for all members of the tenant.
CREATE TABLE notifications (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    id         uuid NOT NULL,
    member_id  uuid,
    kind       text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_]*$' AND length(kind) <= 100),
    title      text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
    body       text NOT NULL DEFAULT '' CHECK (length(body) <= 10000),
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at    timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, member_id) REFERENCES members (tenant_id, id)
);
CREATE INDEX notifications_by_tenant ON notifications (tenant_id, created_at, id);
CREATE INDEX notifications_unread ON notifications (tenant_id, member_id) WHERE read_at IS NULL;
