-- runs: index
CREATE INDEX webhook_deliveries_by_note ON webhook_deliveries (tenant_id, note) WHERE note IS NOT NULL;
