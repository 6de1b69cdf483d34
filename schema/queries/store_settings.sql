-- A tenant's billing settings, per mode.

-- name: get
-- $1 tenant.
SELECT * FROM store_settings WHERE tenant_id = $1;

-- name: save
-- $1 rows.
INSERT INTO store_settings SELECT * FROM unnest($1::store_settings[])
ON CONFLICT (tenant_id) DO UPDATE
   SET currency = excluded.currency, payday_aware = excluded.payday_aware, rails = excluded.rails,
       updated_at = excluded.updated_at;
