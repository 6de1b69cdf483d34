-- Checkout sessions.

-- name: get
-- $1 tenant, $2 checkout session.
SELECT * FROM checkout_sessions WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM checkout_sessions
 WHERE tenant_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: add
-- $1 rows.
INSERT INTO checkout_sessions SELECT * FROM unnest($1::checkout_sessions[]);

-- name: lock
-- $1 tenant, $2 session. Ours until the transaction ends.
SELECT * FROM checkout_sessions WHERE tenant_id = $1 AND id = $2 FOR UPDATE;

-- name: complete
-- $1 tenant, $2 session, $3 subscription, $4 now.
UPDATE checkout_sessions SET status = 'completed', subscription_id = $3, completed_at = $4
 WHERE tenant_id = $1 AND id = $2;

-- name: expire
-- $1 now, $2 limit. Open ones whose time is over, each of which gives back what it took of a promo code;
-- how many.
WITH ended AS (
    UPDATE checkout_sessions s SET status = 'expired'
      FROM (SELECT tenant_id, id FROM checkout_sessions WHERE status = 'open' AND expires_at <= $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS k
     WHERE s.tenant_id = k.tenant_id AND s.id = k.id
    RETURNING s.tenant_id, s.promo_code_id
), given_back AS (
    UPDATE promo_codes p SET redemptions = greatest(0, p.redemptions - e.count)
      FROM (SELECT tenant_id, promo_code_id, count(*) AS count FROM ended
             WHERE promo_code_id IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2) AS e
     WHERE p.tenant_id = e.tenant_id AND p.id = e.promo_code_id
)
SELECT count(*) FROM ended;
