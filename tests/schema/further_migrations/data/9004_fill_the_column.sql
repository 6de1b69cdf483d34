-- runs: in batches
UPDATE webhook_deliveries d SET note = 'settled'
  FROM (SELECT id, created_at FROM webhook_deliveries
         WHERE status = 'delivered' AND note IS NULL LIMIT 50 FOR UPDATE) AS unfilled
 WHERE (d.id, d.created_at) = (unfilled.id, unfilled.created_at);
