-- Subscriptions as one tenant sees them; what changes them is in billing_cases.sql.

-- name: get
-- $1 tenant, $2 subscription.
SELECT * FROM subscriptions WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM subscriptions
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: of_phone
-- $1 phone, $2 and $3 the last row's created_at and id or null, $4 limit. Across tenants, for the portal: a
-- person who has verified a phone sees all subscriptions paid with it. The newest of one page per tenant.
SELECT s.*
  FROM customers c
 CROSS JOIN LATERAL (SELECT *
                       FROM subscriptions
                      WHERE tenant_id = c.tenant_id AND customer_id = c.id
                        AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
                      ORDER BY created_at DESC, id DESC
                      LIMIT $4) AS s
 WHERE c.phone = $1
 ORDER BY s.created_at DESC, s.id DESC
 LIMIT $4;
