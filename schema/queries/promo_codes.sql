-- A tenant's promo codes.

-- name: get
-- $1 tenant, $2 promo code.
SELECT * FROM promo_codes WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM promo_codes
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: add
-- $1 rows.
INSERT INTO promo_codes SELECT * FROM unnest($1::promo_codes[]);

-- name: by_code
-- $1 tenant, $2 code.
SELECT * FROM promo_codes WHERE tenant_id = $1 AND code = $2;

-- name: redeem
-- $1 tenant, $2 code, $3 now. Counts one redemption and returns the code; no row if it has expired or is
-- used up.
UPDATE promo_codes
   SET redemptions = redemptions + 1
 WHERE tenant_id = $1 AND code = $2 AND (expires_at IS NULL OR expires_at > $3)
   AND (max_redemptions IS NULL OR redemptions < max_redemptions)
RETURNING *;
