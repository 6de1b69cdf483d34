-- The wallet, in core: phones, the codes that verify them, and payment methods. See schema/core/wallet.py
-- for the order of locks.

-- name: lock_phone
-- $1 phone. Challenges of one phone start one after the other. An advisory lock, because the phone may not
-- have a row yet.
SELECT pg_advisory_xact_lock(hashtextextended($1, 0));

-- name: recent_challenges
-- $1 phone, $2 the window. How many were started in it, and after how many minutes the first of them leaves
-- it.
SELECT count(*) AS count,
       ceil(extract(epoch FROM min(created_at) + $2::interval - now()) / 60)::integer AS minutes
  FROM otp_challenges
 WHERE phone = $1 AND created_at > now() - $2::interval;

-- name: end_challenge
-- $1 phone. Its open challenge, if any.
UPDATE otp_challenges SET ended_at = now() WHERE phone = $1 AND ended_at IS NULL;

-- name: start_challenge
-- $1 id, $2 phone, $3 hash of the code, $4 lifetime.
INSERT INTO otp_challenges (id, phone, code_hash, expires_at) VALUES ($1, $2, $3, now() + $4::interval);

-- name: count_attempt
-- $1 phone, $2 attempts allowed. Counts an attempt and returns the open challenge; no row if there is none,
-- it has expired, or its attempts are used up.
UPDATE otp_challenges
   SET attempts = attempts + 1
 WHERE phone = $1 AND ended_at IS NULL AND expires_at > now() AND attempts < $2
RETURNING id, code_hash;

-- name: accept
-- $1 challenge, $2 the identity's id if it is new. No row if the challenge has been ended meanwhile.
WITH ended AS (
    UPDATE otp_challenges
       SET ended_at = now()
     WHERE id = $1 AND ended_at IS NULL AND expires_at > now()
    RETURNING phone
)
INSERT INTO customer_identities (id, phone, verified_at)
SELECT $2, phone, now() FROM ended
ON CONFLICT (phone) DO UPDATE SET verified_at = excluded.verified_at
RETURNING id;

-- name: add_identities
-- Column arrays: $1 ids for the new ones, $2 phones, each once. Returns every phone's identity, and locks it.
INSERT INTO customer_identities AS i (id, phone, verified_at)
SELECT n.id, n.phone, now()
  FROM unnest($1::uuid[], $2::text[]) AS n (id, phone)
 ORDER BY n.phone  -- two imports lock in one order: no deadlock
ON CONFLICT (phone) DO UPDATE SET verified_at = coalesce(i.verified_at, excluded.verified_at)
RETURNING id, phone;

-- name: identity_of
-- $1 phone.
SELECT id, phone, verified_at, created_at FROM customer_identities WHERE phone = $1;

-- name: lock_identity
-- $1 identity. Changes of its methods run one after the other.
SELECT verified_at FROM customer_identities WHERE id = $1 FOR UPDATE;

-- name: add_methods
-- Column arrays, one entry per method: $1 id, $2 identity, $3 rail, $4 brand, $5 last four digits, $6
-- expires_on, $7 sealed token, $8 whether it is its identity's default, where null means: if there is none.
-- Each identity has at most one true or null. The old default is unset before the first row is inserted,
-- because the insert waits for that count.
WITH stepped_down AS (
    UPDATE saved_payment_methods
       SET is_default = false
     WHERE is_default AND identity_id = ANY(ARRAY(SELECT n.identity_id
                                                    FROM unnest($2::uuid[], $8::boolean[])
                                                        AS n (identity_id, is_default)
                                                   WHERE n.is_default))
    RETURNING id
)
INSERT INTO saved_payment_methods (id, identity_id, rail, brand, last4, expires_on, sealed_token, is_default)
SELECT n.id, n.identity_id, n.rail, n.brand, n.last4, n.expires_on, n.sealed_token,
       coalesce(n.is_default, NOT EXISTS (SELECT FROM saved_payment_methods m
                                           WHERE m.identity_id = n.identity_id AND m.is_default))
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::date[], $7::bytea[],
              $8::boolean[])
       AS n (id, identity_id, rail, brand, last4, expires_on, sealed_token, is_default)
 WHERE (SELECT count(*) FROM stepped_down) IS NOT NULL;

-- name: remove_method
-- $1 identity, $2 method. The row stays because others refer to it; the token is erased. Returns the id, if
-- it existed.
UPDATE saved_payment_methods
   SET removed_at = now(), is_default = false, sealed_token = ''
 WHERE id = $2 AND identity_id = $1 AND removed_at IS NULL
RETURNING id;

-- name: set_default
-- $1 identity. Makes its newest method the default, unless it has a default or no method.
UPDATE saved_payment_methods
   SET is_default = true
 WHERE id = (SELECT id FROM saved_payment_methods
              WHERE identity_id = $1 AND removed_at IS NULL
              ORDER BY created_at DESC, id DESC
              LIMIT 1)
   AND NOT EXISTS (SELECT FROM saved_payment_methods WHERE identity_id = $1 AND is_default);

-- name: methods
-- $1 identity. Newest first, without those removed.
SELECT id, rail, brand, last4, expires_on, is_default, created_at
  FROM saved_payment_methods
 WHERE identity_id = $1 AND removed_at IS NULL
 ORDER BY created_at DESC, id DESC;

-- name: sealed_tokens
-- $1 methods. Without those removed.
SELECT id, rail, sealed_token, expires_on
  FROM saved_payment_methods
 WHERE id = ANY($1::uuid[]) AND removed_at IS NULL;
