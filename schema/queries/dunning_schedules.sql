-- Dunning schedules as one tenant sees them; what moves them is in billing_cases.sql.

-- name: get
-- $1 tenant, $2 dunning schedule.
SELECT * FROM dunning_schedules WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM dunning_schedules
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: of_invoice
-- $1 tenant, $2 invoice.
SELECT * FROM dunning_schedules WHERE tenant_id = $1 AND invoice_id = $2;
