-- Tenants and their API keys, in core.

-- name: create
-- $1 id, $2 name.
INSERT INTO tenants (id, name) VALUES ($1, $2);

-- name: create_key
-- $1 id, $2 tenant, $3 mode, $4 sha256 of the key, $5 its last four characters.
INSERT INTO api_keys (id, tenant_id, mode, key_hash, hint) VALUES ($1, $2, $3, $4, $5);

-- name: exists
-- $1 tenant.
SELECT EXISTS (SELECT FROM tenants WHERE id = $1);

-- name: list
-- $1 and $2 the last row's created_at and id or null, $3 limit. Newest first.
SELECT id, name, created_at
  FROM tenants
 WHERE (created_at, id) < (coalesce($1::timestamptz, 'infinity'), $2::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $3;
