-- A tenant's plans.

-- name: get
-- $1 tenant, $2 plan.
SELECT * FROM plans WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM plans
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: add
-- $1 rows.
INSERT INTO plans SELECT * FROM unnest($1::plans[]);

-- name: delete
-- $1 tenant, $2 plan. Returns its id if it existed. References refuse the deletion of a plan in use.
DELETE FROM plans WHERE tenant_id = $1 AND id = $2 RETURNING id;

-- name: archive
-- $1 tenant, $2 plan, $3 now.
UPDATE plans SET active = false, updated_at = $3 WHERE tenant_id = $1 AND id = $2 RETURNING *;
