-- The activity feed: one entry per event, written by the consumer `activity`. Generations are 0015_projections.sql's.
--
--   summary       what happened, in a sentence; consumers/activity/entry_text.py writes it
--   subject_*     the row that it is about in the first place: the kind is its id's prefix
--   links         the rows concerned, by what they are to the event: {"subscription": "sub_…", "previousPlan": "plan_…"}
--   amount        null where the data names none, or none that is a whole number of a currency's smallest unit
--
-- Ids that are not of our form, as another product's, are told in `links` alone.
CREATE TABLE activity (
    generation      integer NOT NULL,
    id              uuid NOT NULL,          -- the event's, as are the next four
    tenant_id       uuid NOT NULL,
    created_at      timestamptz NOT NULL,
    pos             bigint NOT NULL,
    type            text NOT NULL,
    summary         text NOT NULL CHECK (length(summary) BETWEEN 1 AND 500),
    subject_kind    text,
    subject_id      uuid,
    subscription_id uuid,
    invoice_id      uuid,
    customer_id     uuid,
    amount          bigint,
    currency        text,
    links           jsonb NOT NULL,
    PRIMARY KEY (tenant_id, created_at, id, generation),
    CHECK ((subject_kind IS NULL) = (subject_id IS NULL)),
    CHECK (amount IS NULL OR currency IS NOT NULL)
) PARTITION BY LIST (generation);

-- The key is the feed without a filter: it keeps a replayed event from a second entry, and spares an index.
--
-- Each filter that can be given alone has an index in the feed's order, since a page of one without may have to pass a large
-- tenant's whole history. A filter beside another is a condition on what the other finds: what concerns one customer or
-- one subscription is little. An entry costs Postgres 1.3 µs and 65 bytes, where the entry with its key costs 14.5 and 576; so
-- those that many entries lack are partial, and a billing entry has five at most. Subscriptions and invoices have an index
-- each, and all ids together not one on an array, which would not be in the feed's order: all that concerns them has to be
-- found, whatever the entry is about in the first place.
--
-- They begin with what is looked for and do not have the tenant, which is a condition on the rows: ids are nobody else's. Else
-- the key, which has the tenant too, would serve every list: of a few rows in a month, as a generic plan sees it, all indexes
-- that begin alike cost alike, and a rare type would be looked for among everything. (Nor do they have the generation:
-- each partition has one.) A type is everybody's; with the tenant it makes a key of eight bytes.
CREATE FUNCTION activity_type_key(tenant_id uuid, type text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN hashtextextended(type, uuid_hash_extended(tenant_id, 0));

CREATE INDEX activity_by_type ON activity (activity_type_key(tenant_id, type), created_at, id);
CREATE INDEX activity_by_customer ON activity (customer_id, created_at, id) WHERE customer_id IS NOT NULL;
CREATE INDEX activity_by_subscription ON activity (subscription_id, created_at, id) WHERE subscription_id IS NOT NULL;
CREATE INDEX activity_by_invoice ON activity (invoice_id, created_at, id) WHERE invoice_id IS NOT NULL;
CREATE INDEX activity_by_subject ON activity (subject_id, created_at, id) WHERE subject_kind NOT IN ('sub', 'inv');

SELECT add_projection('activity', 'activity');

-- What is read: the generation that serves, picked in the statement itself, so that no reader can be caught by a change.
CREATE VIEW activity_feed AS
SELECT tenant_id, created_at, id, pos, type, summary, subject_kind, subject_id, subscription_id, invoice_id, customer_id,
       amount, currency, links
  FROM activity
 WHERE generation = (SELECT serving FROM projections WHERE name = 'activity');
