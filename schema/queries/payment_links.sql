-- Links to the checkout of one plan.

-- name: get
-- $1 tenant, $2 payment link.
SELECT * FROM payment_links WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM payment_links
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: add
-- $1 rows.
INSERT INTO payment_links SELECT * FROM unnest($1::payment_links[]);

-- name: by_slug
-- $1 tenant, $2 slug.
SELECT * FROM payment_links WHERE tenant_id = $1 AND slug = $2;
