-- Invoices as one tenant sees them; what makes and settles them is in billing_cases.sql.

-- name: get
-- $1 tenant, $2 invoice.
SELECT * FROM invoices WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM invoices
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: of_subscription
-- $1 tenant, $2 subscription, $3 and $4 the last row's created_at and id or null, $5 limit. Newest first.
SELECT *
  FROM invoices
 WHERE tenant_id = $1 AND subscription_id = $2
   AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), $4::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $5;
