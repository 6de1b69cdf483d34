-- Changes the catalog alone: no default is written into rows.
ALTER TABLE webhook_deliveries ADD COLUMN note text;
