-- Since when an endpoint is disabled, or was the last time: what was skipped from then on is what enabling it again
-- offers to replay. By trigger, so that it holds for whoever disables it.
ALTER TABLE webhook_endpoints ADD COLUMN disabled_at timestamptz;
UPDATE webhook_endpoints SET disabled_at = updated_at WHERE NOT enabled;

CREATE FUNCTION note_disabling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.disabled_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER note_disabling BEFORE UPDATE OF enabled ON webhook_endpoints
    FOR EACH ROW WHEN (OLD.enabled AND NOT NEW.enabled) EXECUTE FUNCTION note_disabling();
