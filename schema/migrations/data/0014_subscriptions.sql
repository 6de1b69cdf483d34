-- Subscriptions, their invoices, payment attempts, dunning schedules and checkout sessions.
--
-- Every transaction that changes one of these locks the subscription's row first. The database itself
-- enforces:
--   · one invoice per period:                       UNIQUE (tenant_id, idempotency_key)
--   · a subscription's periods do not overlap:      invoices_overlap
--   · a subscription owes one invoice at a time:    invoices_unpaid
--   · one charge or refund is in flight at a time:  payment_attempts_in_flight
--   · an invoice is paid once:                      payment_attempts_paid
--   · refunds do not exceed the payment:            CHECK (refunded <= amount)
--   · one dunning schedule per failing invoice:     UNIQUE (tenant_id, invoice_id)
--
-- While a table is empty, several indexes that begin with the tenant cost the planner the same. It takes
-- the one that was created last, and a pool keeps that plan for a while. So the key of most look-ups is
-- created last.

--   anchor, period         the current period's number, counted from the anchor (0: the first; -1: it ends
--                          at the anchor). Ends are computed from the anchor, so the 31st comes back after
--                          February
--   current_period_end     until then it is paid (active), on trial (trialing), or may be completed
--                          (incomplete)
--   cycles                 periods paid
--   payment_method_id      in core.saved_payment_methods, because the wallet belongs to the person
--   promo_code_id          for the next invoice
--   held_until, fault      an internal error; the scanners skip the subscription until then
CREATE TABLE subscriptions (
    tenant_id            uuid NOT NULL,
    id                   uuid NOT NULL,
    customer_id          uuid NOT NULL,
    plan_id              uuid NOT NULL,
    status               text NOT NULL CHECK (status IN ('incomplete', 'incomplete_expired', 'trialing',
                         'active', 'past_due', 'paused', 'unpaid', 'canceled', 'expired')),
    payment_method_id    uuid,
    promo_code_id        uuid,
    anchor               timestamptz NOT NULL,
    period               integer NOT NULL DEFAULT 0 CHECK (period >= -1),
    current_period_start timestamptz NOT NULL,
    current_period_end   timestamptz NOT NULL,
    cycles               integer NOT NULL DEFAULT 0 CHECK (cycles >= 0),
    max_cycles           integer CHECK (max_cycles > 0),
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    held_until           timestamptz,
    fault                text,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    ended_at             timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id),
    FOREIGN KEY (tenant_id, promo_code_id) REFERENCES promo_codes (tenant_id, id),
    CHECK (current_period_start < current_period_end),
    CHECK (cycles <= max_cycles),
    CHECK ((status IN ('incomplete_expired', 'canceled', 'expired')) = (ended_at IS NOT NULL)),
    CHECK ((held_until IS NULL) = (fault IS NULL))
);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant_id, created_at, id);
CREATE INDEX subscriptions_due ON subscriptions (status, current_period_end);
CREATE INDEX subscriptions_by_customer ON subscriptions (tenant_id, customer_id, created_at, id);
CREATE INDEX subscriptions_by_plan ON subscriptions (tenant_id, plan_id);
CREATE INDEX subscriptions_held ON subscriptions (held_until) WHERE held_until IS NOT NULL;

CREATE TABLE invoices (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    subscription_id uuid NOT NULL,
    status          text NOT NULL CHECK (status IN ('open', 'paid', 'uncollectible', 'void')),
    amount          minor_units NOT NULL,        -- to charge, after the discount
    discount        minor_units NOT NULL DEFAULT 0,
    currency        currency NOT NULL DEFAULT 'NGN',
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),    -- charges started
    created_at      timestamptz NOT NULL,
    paid_at         timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, idempotency_key),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    CHECK (period_start < period_end),
    CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
    CONSTRAINT invoices_overlap EXCLUDE USING gist (id_range(subscription_id, subscription_id, '[]') WITH =,
                                                    tstzrange(period_start, period_end) WITH &&,
                                                    id_range(tenant_id, tenant_id, '[]') WITH =)
                                        WHERE (status <> 'void')
);
CREATE INDEX invoices_by_tenant ON invoices (tenant_id, created_at, id);
CREATE INDEX invoices_by_subscription ON invoices (tenant_id, subscription_id, created_at, id);
CREATE UNIQUE INDEX invoices_unpaid ON invoices (tenant_id, subscription_id)
    WHERE status IN ('open', 'uncollectible');

-- Charges and refunds. A row is written before the gateway is called, and its id is the idempotency
-- reference there.
--   number         among the invoice's charges; a refund has its charge's
--   refunded       of a charge: refunds made and in flight
--   leased_until   of an attempt in flight: its process finishes it until then; afterwards another process
--                  asks the gateway how it ended
CREATE TABLE payment_attempts (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    invoice_id      uuid NOT NULL,
    subscription_id uuid NOT NULL,
    customer_id     uuid NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('charge', 'refund')),
    refund_of       uuid,
    number          integer NOT NULL CHECK (number > 0),
    state           text NOT NULL CHECK (state IN ('in_flight', 'succeeded', 'failed')),
    amount          minor_units NOT NULL,
    currency        currency NOT NULL DEFAULT 'NGN',
    rail            text NOT NULL
                    CHECK (rail IN ('card', 'ussd', 'transfer', 'virtual_account', 'direct_debit')),
    failure_code    text CHECK (length(failure_code) BETWEEN 1 AND 100),
    refunded        minor_units NOT NULL DEFAULT 0,
    leased_until    timestamptz,
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    CHECK ((kind = 'refund') = (refund_of IS NOT NULL)),
    CHECK ((state = 'in_flight') = (leased_until IS NOT NULL)
           AND (state = 'in_flight') = (finished_at IS NULL)),
    CHECK ((state = 'failed') = (failure_code IS NOT NULL)),
    CHECK (refunded <= amount AND (refunded = 0 OR kind = 'charge' AND state = 'succeeded'))
);
CREATE INDEX payment_attempts_by_tenant ON payment_attempts (tenant_id, created_at, id);
CREATE INDEX payment_attempts_by_customer ON payment_attempts (customer_id, tenant_id, created_at, id);
CREATE UNIQUE INDEX payment_attempts_in_flight ON payment_attempts (tenant_id, subscription_id)
    WHERE state = 'in_flight';
CREATE UNIQUE INDEX payment_attempts_paid ON payment_attempts (tenant_id, invoice_id)
    WHERE kind = 'charge' AND state = 'succeeded';
CREATE INDEX payment_attempts_leased ON payment_attempts (leased_until) WHERE leased_until IS NOT NULL;
ALTER TABLE payment_attempts ADD PRIMARY KEY (tenant_id, id),
    ADD FOREIGN KEY (tenant_id, refund_of) REFERENCES payment_attempts (tenant_id, id);

-- The state of one invoice's recovery. service/billing/decisions/dunning.py decides.
--   attempts          charges made by it
--   rail              of the next charge
--   next_attempt_at   waiting: when to charge; awaiting_card: until when the card can be replaced
--   in_flight         its charge is in flight, and no other may start
CREATE TABLE dunning_schedules (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    invoice_id      uuid NOT NULL,
    subscription_id uuid NOT NULL,
    state           text NOT NULL
                    CHECK (state IN ('waiting', 'awaiting_card', 'recovered', 'exhausted', 'cancelled')),
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    rail            text NOT NULL
                    CHECK (rail IN ('card', 'ussd', 'transfer', 'virtual_account', 'direct_debit')),
    payday_aware    boolean NOT NULL,
    failure_code    text NOT NULL,
    last_action     text NOT NULL CHECK (last_action IN
                    ('exhaust', 'request_card_update', 'retry', 'switch_rail', 'retry_payday')),
    last_reason     text NOT NULL,
    in_flight       boolean NOT NULL DEFAULT false,
    next_attempt_at timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    CHECK ((state IN ('waiting', 'awaiting_card')) = (next_attempt_at IS NOT NULL)),
    CHECK (NOT in_flight OR state = 'waiting')
);
CREATE INDEX dunning_schedules_due ON dunning_schedules (state, next_attempt_at);
CREATE INDEX dunning_schedules_by_tenant ON dunning_schedules (tenant_id, created_at, id);
ALTER TABLE dunning_schedules ADD UNIQUE (tenant_id, invoice_id);

CREATE TABLE checkout_sessions (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    plan_id         uuid NOT NULL,
    payment_link_id uuid,
    promo_code_id   uuid,
    status          text NOT NULL CHECK (status IN ('open', 'completed', 'expired')),
    subscription_id uuid,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id),
    FOREIGN KEY (tenant_id, payment_link_id) REFERENCES payment_links (tenant_id, id),
    FOREIGN KEY (tenant_id, promo_code_id) REFERENCES promo_codes (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    CHECK (created_at < expires_at),
    CHECK ((status = 'completed') = (subscription_id IS NOT NULL)
           AND (status = 'completed') = (completed_at IS NOT NULL))
);
CREATE INDEX checkout_sessions_by_tenant ON checkout_sessions (tenant_id, created_at, id);
CREATE INDEX checkout_sessions_open ON checkout_sessions (expires_at) WHERE status = 'open';
CREATE INDEX checkout_sessions_by_plan ON checkout_sessions (tenant_id, plan_id);
CREATE INDEX checkout_sessions_by_link ON checkout_sessions (tenant_id, payment_link_id)
    WHERE payment_link_id IS NOT NULL;
