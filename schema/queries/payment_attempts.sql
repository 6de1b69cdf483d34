-- Charges and refunds as one tenant sees them; what makes and settles them is in billing_cases.sql.

-- name: get
-- $1 tenant, $2 payment attempt.
SELECT * FROM payment_attempts WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM payment_attempts
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: of_customer
-- $1 tenant, $2 customer, $3 and $4 the last row's created_at and id or null, $5 limit. Newest first.
SELECT *
  FROM payment_attempts
 WHERE customer_id = $2 AND tenant_id = $1
   AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), $4::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $5;

-- name: reserve_refund
-- $1 tenant, $2 charge, $3 amount. Adds it to the charge's refunds; no row if the charge did not succeed or
-- has less left. CASE, so that the plan uses the primary key: to the planner the index of paid charges
-- looks as cheap.
UPDATE payment_attempts
   SET refunded = refunded + $3::bigint
 WHERE tenant_id = $1 AND id = $2
   AND CASE WHEN kind = 'charge' AND state = 'succeeded' THEN refunded + $3::bigint <= amount END
RETURNING *;
