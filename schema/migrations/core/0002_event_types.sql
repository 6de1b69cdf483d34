-- The event catalog.

CREATE TABLE event_types (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$'),
    description text NOT NULL
);
INSERT INTO event_types (name, description) VALUES
    ('subscription_created', 'A subscription was created.'),
    ('subscription_activated', 'A trial converted or the first charge worked.'),
    ('subscription_updated', 'A subscription''s details changed.'),
    ('subscription_plan_changed', 'A subscription moved to another plan.'),
    ('subscription_paused', 'A subscription was paused.'),
    ('subscription_resumed', 'A paused subscription was resumed.'),
    ('subscription_past_due', 'A renewal failed and dunning has begun.'),
    ('subscription_recovered', 'A past-due subscription is in good standing again.'),
    ('subscription_unpaid', 'Dunning ran out without a payment.'),
    ('subscription_expired', 'A subscription reached its last cycle.'),
    ('subscription_cancelled', 'A subscription was cancelled.'),
    ('subscription_payment_success', 'A charge for a subscription succeeded.'),
    ('subscription_payment_failed', 'A charge for a subscription failed.'),
    ('subscription_payment_recovered', 'A failed charge succeeded on a later try.'),
    ('subscription_payment_refunded', 'A charge was refunded.'),
    ('subscription_payment_action_required', 'The customer must update the card.'),
    ('invoice_created', 'An invoice was created.'),
    ('webhook_endpoint_failing', 'An endpoint has been failing for some time.'),
    ('webhook_endpoint_disabled', 'An endpoint was disabled.'),
    ('webhook_endpoint_enabled', 'An endpoint was enabled again.'),
    ('webhook_test', 'A test event sent on request.');
