-- The wallet: people by phone number, and their payment methods, which every tenant may charge. These
-- tables have no tenant_id on purpose.

CREATE TABLE customer_identities (
    id          uuid PRIMARY KEY,
    phone       text NOT NULL UNIQUE CHECK (phone ~ '^\+[1-9][0-9]{7,14}$'),
    verified_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- A code sent over WhatsApp, stored as a digest under the service's key. A phone has one open challenge; a
-- new one replaces it.
CREATE TABLE otp_challenges (
    id          uuid PRIMARY KEY,
    phone       text NOT NULL CHECK (phone ~ '^\+[1-9][0-9]{7,14}$'),
    channel     text NOT NULL DEFAULT 'whatsapp' CHECK (channel IN ('whatsapp')),
    code_hash   bytea NOT NULL CHECK (octet_length(code_hash) = 32),
    attempts    smallint NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 5),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL CHECK (expires_at > created_at),
    ended_at    timestamptz
);
CREATE UNIQUE INDEX otp_challenges_open ON otp_challenges (phone) WHERE ended_at IS NULL;
CREATE INDEX otp_challenges_by_phone ON otp_challenges (phone, created_at);

-- The gateway's token is sealed (see schema/secret_box.py). People see the last four digits.
CREATE TABLE saved_payment_methods (
    id           uuid PRIMARY KEY,
    identity_id  uuid NOT NULL REFERENCES customer_identities,
    rail         text NOT NULL
                 CHECK (rail IN ('card', 'ussd', 'transfer', 'virtual_account', 'direct_debit')),
    brand        text CHECK (length(brand) BETWEEN 1 AND 40),
    last4        text CHECK (last4 ~ '^[0-9]{4}$'),
    expires_on   date,
    sealed_token bytea NOT NULL,
    is_default   boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    removed_at   timestamptz,
    CHECK (NOT is_default OR removed_at IS NULL)
);
CREATE UNIQUE INDEX saved_payment_methods_default ON saved_payment_methods (identity_id) WHERE is_default;
CREATE INDEX saved_payment_methods_by_identity ON saved_payment_methods (identity_id, created_at, id);
