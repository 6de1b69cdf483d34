-- Plans, promo codes and payment links, and the customers. Every row carries its tenant. References go by
-- (tenant_id, id) and primary keys begin with the tenant, so no reference can leave the tenant.

CREATE TABLE store_settings (
    tenant_id       uuid PRIMARY KEY REFERENCES core.tenants,
    currency        currency NOT NULL DEFAULT 'NGN',
    payday_aware    boolean NOT NULL DEFAULT true,    -- insufficient funds: retry on payday
    rails           text[] NOT NULL DEFAULT '{card,ussd,transfer,virtual_account,direct_debit}'
                    CHECK (rails <@ '{card,ussd,transfer,virtual_account,direct_debit}' AND rails <> '{}'),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

--   charge_currency, fx_rate   of a plan that is priced in one currency and charged in another: fx_rate
--                              units of the charged currency for one unit of the price
CREATE TABLE plans (
    tenant_id       uuid NOT NULL REFERENCES core.tenants,
    id              uuid NOT NULL,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    amount          minor_units NOT NULL CHECK (amount > 0),
    currency        currency NOT NULL DEFAULT 'NGN',
    "interval"      text NOT NULL
                    CHECK ("interval" IN ('hour', 'day', 'week', 'month', 'quarter', 'biannual', 'year')),
    trial_days      integer NOT NULL DEFAULT 0 CHECK (trial_days BETWEEN 0 AND 730),
    max_cycles      integer CHECK (max_cycles BETWEEN 1 AND 100000),
    charge_currency currency,
    fx_rate         numeric(18, 8) CHECK (fx_rate > 0 AND fx_rate <> 'NaN'),  -- NaN > 0 is true
    active          boolean NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK ((charge_currency IS NULL) = (fx_rate IS NULL)),
    CHECK (charge_currency <> currency)
);
CREATE INDEX plans_by_tenant ON plans (tenant_id, created_at, id);

CREATE TABLE customers (
    tenant_id        uuid NOT NULL REFERENCES core.tenants,
    id               uuid NOT NULL,
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    email            text
                     CHECK (email ~ '^[^@\s]+@[^@\s]+$' AND length(email) <= 254 AND email = lower(email)),
    phone            text CHECK (phone ~ '^\+[1-9][0-9]{7,14}$'),
    blacklisted_at   timestamptz,
    blacklist_reason text CHECK (length(blacklist_reason) BETWEEN 1 AND 500),
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK (num_nonnulls(email, phone) > 0),
    CHECK ((blacklisted_at IS NULL) = (blacklist_reason IS NULL))
);
CREATE INDEX customers_by_tenant ON customers (tenant_id, created_at, id);
CREATE UNIQUE INDEX customers_by_email ON customers (tenant_id, email);
CREATE INDEX customers_by_phone ON customers (phone);

CREATE TABLE promo_codes (
    tenant_id       uuid NOT NULL REFERENCES core.tenants,
    id              uuid NOT NULL,
    code            text NOT NULL CHECK (code ~ '^[A-Z0-9][A-Z0-9_-]{2,39}$'),
    percent_off     integer CHECK (percent_off BETWEEN 1 AND 100),
    amount_off      minor_units CHECK (amount_off > 0),
    currency        currency,
    max_redemptions integer CHECK (max_redemptions > 0),
    redemptions     integer NOT NULL DEFAULT 0 CHECK (redemptions >= 0),
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, code),
    CHECK (num_nonnulls(percent_off, amount_off) = 1 AND (amount_off IS NULL) = (currency IS NULL)),
    CHECK (redemptions <= max_redemptions)
);
CREATE INDEX promo_codes_by_tenant ON promo_codes (tenant_id, created_at, id);

CREATE TABLE payment_links (
    tenant_id  uuid NOT NULL,
    id         uuid NOT NULL,
    plan_id    uuid NOT NULL,
    slug       text NOT NULL CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,79}$'),
    active     boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, slug),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id)
);
CREATE INDEX payment_links_by_tenant ON payment_links (tenant_id, created_at, id);
CREATE INDEX payment_links_by_plan ON payment_links (tenant_id, plan_id);

-- The HTTP API's response to each idempotency key: a repeated request gets the same response.
CREATE TABLE idempotency_keys (
    tenant_id    uuid NOT NULL REFERENCES core.tenants,
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    status       smallint CHECK (status BETWEEN 200 AND 599),
    response     bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key),
    CHECK ((status IS NULL) = (response IS NULL))
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
