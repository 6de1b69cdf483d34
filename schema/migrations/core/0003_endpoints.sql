-- Webhook endpoints and their signing secrets. An endpoint belongs to one mode; the data roles see it only
-- through the view of their schema.

--   sealed_headers   custom headers, sealed like the signing secrets because they may carry credentials
--   disabled_at      when the endpoint was last disabled; deliveries skipped since then are offered for
--                    replay when it is enabled
--   paused           its deliveries wait; those of a disabled endpoint are skipped
--   rate_limit       deliveries per second of all workers together; null: no limit
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
    disabled_at     timestamptz,
    paused          boolean NOT NULL DEFAULT false,
    rate_limit      integer CHECK (rate_limit BETWEEN 1 AND 10000),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (enabled = (disabled_reason IS NULL))
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant_id, mode, created_at, id);
-- /metrics counts the endpoints out of service, which are few.
CREATE INDEX webhook_endpoints_out_of_service ON webhook_endpoints (mode, enabled)
    WHERE NOT enabled OR paused;

-- A trigger, because operators, the API and workers all disable endpoints.
CREATE FUNCTION set_disabled_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.disabled_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER set_disabled_at BEFORE UPDATE OF enabled ON webhook_endpoints
    FOR EACH ROW WHEN (OLD.enabled AND NOT NEW.enabled) EXECUTE FUNCTION set_disabled_at();

-- The current secret has no expiry. A rotated secret keeps signing until it expires.
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
