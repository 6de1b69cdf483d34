-- A merchant's customers.

-- name: get
-- $1 tenant, $2 customer.
SELECT * FROM customers WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM customers
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: reuse
-- $1 rows, one per e-mail address. Each known address keeps its customer as it is: who types an address
-- has not shown that it is theirs. The rows as they are now.
INSERT INTO customers SELECT * FROM unnest($1::customers[])
ON CONFLICT (tenant_id, email) DO UPDATE SET email = customers.email
RETURNING *;

-- name: by_email
-- $1 tenant, $2 e-mail address.
SELECT * FROM customers WHERE tenant_id = $1 AND email = $2;

-- name: blacklist
-- $1 tenant, $2 customer, $3 reason, $4 now.
UPDATE customers SET blacklisted_at = $4, blacklist_reason = $3, updated_at = $4
 WHERE tenant_id = $1 AND id = $2 RETURNING *;
