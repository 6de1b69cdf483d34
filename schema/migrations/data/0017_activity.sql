-- The activity feed: one entry per event, written by the consumer `activity`. See 0015_projections.sql for
-- generations.

--   id, tenant_id, created_at, pos, type    the event's
--   summary       what happened, in one sentence, from consumers/activity/entry_text.py
--   subject_*     the row that the entry is mainly about; the kind is its id's prefix
--   links         the rows concerned, by their role: {"subscription": "sub_…", "previousPlan": "plan_…"}.
--                 Ids that are not of duro's form, such as another product's, are here only
--   amount        in minor units; null unless the data has one as a whole number
CREATE TABLE activity (
    generation      integer NOT NULL,
    id              uuid NOT NULL,
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

-- The primary key is the unfiltered feed. It also prevents a second entry when an event is applied twice.
--
-- Every filter that can be used alone has an index in the feed's order; without one a page could have to
-- walk a large tenant's whole history. With two filters the second is a condition on what the first finds,
-- because one customer or one subscription has few entries. An index entry costs PostgreSQL 1.3 µs and 65
-- bytes; the row with its key costs 14.5 µs and 576 bytes. So indexes on columns that many entries lack are
-- partial, and a billing entry is in five at most. Subscriptions and invoices have an index each: one index
-- on an array of all ids would not be in the feed's order, and a filter must find every entry that concerns
-- the row, whatever its subject.
--
-- The indexes do not begin with the tenant, which is a condition on the rows; ids are unique across
-- tenants. If they did, the primary key would serve every list: to a generic plan, which expects few rows
-- in a month, all indexes with the same first column cost the same, and a rare type would be searched for
-- in everything. They do not have the generation either, because each partition has one. A type is not
-- unique to a tenant; with the tenant it makes a key of eight bytes.
CREATE FUNCTION activity_type_key(tenant_id uuid, type text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN hashtextextended(type, uuid_hash_extended(tenant_id, 0));

CREATE INDEX activity_by_type ON activity (activity_type_key(tenant_id, type), created_at, id);
CREATE INDEX activity_by_customer ON activity (customer_id, created_at, id) WHERE customer_id IS NOT NULL;
CREATE INDEX activity_by_subscription ON activity (subscription_id, created_at, id)
    WHERE subscription_id IS NOT NULL;
CREATE INDEX activity_by_invoice ON activity (invoice_id, created_at, id) WHERE invoice_id IS NOT NULL;
CREATE INDEX activity_by_subject ON activity (subject_id, created_at, id)
    WHERE subject_kind NOT IN ('sub', 'inv');

SELECT add_projection('activity', 'activity');

-- Reads the serving generation. The statement itself looks it up, so no reader sees two generations.
CREATE VIEW activity_feed AS
SELECT tenant_id, created_at, id, pos, type, summary, subject_kind, subject_id,
       subscription_id, invoice_id, customer_id, amount, currency, links
  FROM activity
 WHERE generation = (SELECT serving FROM projections WHERE name = 'activity');
