-- The people who act for a tenant: members, their sessions, KYC documents, and the audit log.
-- References between a tenant's rows go by (tenant_id, id), so no row can point to another tenant's.

CREATE TABLE members (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    id         uuid NOT NULL,
    email      text NOT NULL
               CHECK (email ~ '^[^@\s]+@[^@\s]+$' AND length(email) <= 254 AND email = lower(email)),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    role       text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'finance', 'read_only')),
    status     text NOT NULL DEFAULT 'invited' CHECK (status IN ('invited', 'active', 'removed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX members_by_email ON members (tenant_id, email) WHERE status <> 'removed';
CREATE INDEX members_by_tenant ON members (tenant_id, created_at, id);

-- A dashboard session. Its cookie is stored as SHA-256. It ends after ten idle minutes, or when it is
-- revoked.
CREATE TABLE sessions (
    token_hash   bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    tenant_id    uuid NOT NULL,
    member_id    uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL DEFAULT now() + interval '10 minutes',
    revoked_at   timestamptz,
    FOREIGN KEY (tenant_id, member_id) REFERENCES members (tenant_id, id),
    CHECK (expires_at > last_seen_at AND last_seen_at >= created_at)
);
CREATE INDEX sessions_by_member ON sessions (tenant_id, member_id);
CREATE INDEX sessions_expiring ON sessions (expires_at);

-- The document is in an object store. Its digest shows that it is still the one that was reviewed.
CREATE TABLE kyc_documents (
    tenant_id        uuid NOT NULL REFERENCES tenants,
    id               uuid NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('registration', 'director_id', 'proof_of_address',
                     'bank_statement', 'tax_certificate')),
    storage_key      text NOT NULL CHECK (length(storage_key) BETWEEN 1 AND 1024),
    sha256           bytea NOT NULL CHECK (octet_length(sha256) = 32),
    status           text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected')),
    rejection_reason text CHECK (length(rejection_reason) BETWEEN 1 AND 1000),
    submitted_by     uuid NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    reviewed_at      timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, submitted_by) REFERENCES members (tenant_id, id),
    CHECK ((status = 'rejected') = (rejection_reason IS NOT NULL)),
    CHECK ((status = 'pending') = (reviewed_at IS NULL))
);
CREATE UNIQUE INDEX kyc_documents_current ON kyc_documents (tenant_id, kind)
    WHERE status IN ('pending', 'approved');
CREATE INDEX kyc_documents_by_tenant ON kyc_documents (tenant_id, created_at, id);

-- Append-only. A null member_id means the system itself.
CREATE TABLE audit_logs (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    id         uuid NOT NULL,
    member_id  uuid,
    action     text NOT NULL
               CHECK (action ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' AND length(action) <= 100),
    subject_id text CHECK (length(subject_id) <= 100),
    detail     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, member_id) REFERENCES members (tenant_id, id)
);
CREATE INDEX audit_logs_by_tenant ON audit_logs (tenant_id, created_at, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER append_only;  -- session_replication_role must not turn it off
