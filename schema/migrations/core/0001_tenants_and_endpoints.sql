-- Who a merchant is: one row per business, whatever its mode.

CREATE TABLE tenants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenants_by_age ON tenants (created_at, id);

-- Keys are shown once and kept as SHA-256; the hint (last four characters) tells them apart in a list.
CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    mode       text NOT NULL CHECK (mode IN ('test', 'live')),
    key_hash   bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    hint       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at, id);

CREATE TABLE event_types (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$'),
    description text NOT NULL
);
INSERT INTO event_types (name, description) VALUES
    ('subscription_created', 'A subscription was created.'),
    ('subscription_activated', 'A trial converted or the first charge worked.'),
    ('subscription_updated', 'A subscription''s details changed.'),
    ('subscription_plan_changed', 'A subscription moved to another plan.'),
    ('subscription_paused', 'A subscription was paused.'),
    ('subscription_resumed', 'A paused subscription was resumed.'),
    ('subscription_past_due', 'A renewal failed and dunning has begun.'),
    ('subscription_recovered', 'A past-due subscription is in good standing again.'),
    ('subscription_unpaid', 'Dunning ran out without a payment.'),
    ('subscription_expired', 'A subscription reached its last cycle.'),
    ('subscription_cancelled', 'A subscription was cancelled.'),
    ('subscription_payment_success', 'A charge for a subscription succeeded.'),
    ('subscription_payment_failed', 'A charge for a subscription failed.'),
    ('subscription_payment_recovered', 'A failed charge succeeded on a later try.'),
    ('subscription_payment_refunded', 'A charge was refunded.'),
    ('subscription_payment_action_required', 'The customer must update the card.'),
    ('invoice_created', 'An invoice was created.'),
    ('webhook_endpoint_failing', 'An endpoint has been failing for some time.'),
    ('webhook_endpoint_disabled', 'An endpoint was disabled.'),
    ('webhook_endpoint_enabled', 'An endpoint was enabled again.'),
    ('webhook_test', 'A test event sent on request.');

-- An endpoint belongs to one mode. The data roles see it only through their schema's view.
-- Custom headers may carry a merchant's credentials, so they are sealed like the signing secrets.
CREATE TABLE webhook_endpoints (
    id              uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL REFERENCES tenants,
    mode            text NOT NULL CHECK (mode IN ('test', 'live')),
    url             text NOT NULL CHECK (length(url) <= 2048),
    description     text NOT NULL DEFAULT '' CHECK (length(description) <= 500),
    event_types     text[] NOT NULL DEFAULT '{}',
    sealed_headers  bytea,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_reason text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (enabled = (disabled_reason IS NULL))
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant_id, mode, created_at, id);

-- The newest secret has no expiry; a rotated one keeps signing until its own.
CREATE TABLE webhook_endpoint_secrets (
    id          uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints,
    sealed      bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz
);
CREATE UNIQUE INDEX webhook_endpoint_secrets_current
    ON webhook_endpoint_secrets (endpoint_id) WHERE expires_at IS NULL;
CREATE INDEX webhook_endpoint_secrets_by_endpoint ON webhook_endpoint_secrets (endpoint_id, created_at);

-- One row per running worker process. A worker is alive while the session named here exists; its row goes when its
-- leases have been taken over or given back.
CREATE TABLE workers (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    pid           integer NOT NULL,
    session_start timestamptz NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now()
);
