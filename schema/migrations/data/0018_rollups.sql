-- Rollups: hourly sums of the log, written by consumers/rollups/rollups_consumer.py. 0019_rollup_views.sql
-- publishes them.
--
--      log ──► event_hours           every event, by plan, rail, failure code and currency
--        ├───► movement_hours        changes of subscriptions and of monthly recurring revenue (MRR)
--        ├───► recovery_hours        failed renewals, and how their recovery ended
--        └──►► subscription_states   each subscription's last state, from which movements are computed
--
-- Buckets are hours of UTC by the event's created_at, so late and backdated events are counted in their own
-- hour. States follow the order of the log. A value that an event lacks or has in a wrong form (an amount
-- that is a string, an id that is not one) is stored as '' or the uuid of zeros, and never guessed. Sums
-- are numeric, so no producer can stop the consumer with one that does not fit.

CREATE TABLE event_hours (
    generation   integer NOT NULL,
    tenant_id    uuid NOT NULL,
    type         text NOT NULL,
    hour         timestamptz NOT NULL,
    plan_id      uuid NOT NULL,
    rail         text NOT NULL,
    failure_code text NOT NULL,
    currency     text NOT NULL,
    events       bigint NOT NULL,
    unpriced     bigint NOT NULL,    -- events without an amount and its currency
    amount       numeric NOT NULL,   -- of the other events
    PRIMARY KEY (generation, tenant_id, type, hour, plan_id, rail, failure_code, currency)
) PARTITION BY LIST (generation);

-- A change of plan within one currency is two rows of one kind: the old plan's loss and the new plan's gain.
CREATE TABLE movement_hours (
    generation    integer NOT NULL,
    tenant_id     uuid NOT NULL,
    hour          timestamptz NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('new', 'reactivation', 'resumed', 'expansion', 'contraction',
                  'switch', 'paused', 'churn_voluntary', 'churn_involuntary', 'completed')),
    plan_id       uuid NOT NULL,
    currency      text NOT NULL,
    subscriptions bigint NOT NULL,   -- with this movement
    counted       bigint NOT NULL,   -- change of the number of subscriptions that count for MRR
    mrr           numeric NOT NULL,  -- change of MRR
    PRIMARY KEY (generation, tenant_id, hour, kind, plan_id, currency)
) PARTITION BY LIST (generation);

-- failure_code is that of the failure that put the subscription at risk, not of later ones.
CREATE TABLE recovery_hours (
    generation    integer NOT NULL,
    tenant_id     uuid NOT NULL,
    hour          timestamptz NOT NULL,
    kind          text NOT NULL
                  CHECK (kind IN ('at_risk', 'recovered', 'exhausted', 'cancelled', 'won_back')),
    failure_code  text NOT NULL,
    currency      text NOT NULL,
    subscriptions bigint NOT NULL,
    amount        numeric NOT NULL,
    PRIMARY KEY (generation, tenant_id, hour, kind, failure_code, currency)
) PARTITION BY LIST (generation);

--   pos            of the last event applied; an event with a lower position changes nothing
--   mrr            the monthly price, whether it counts at present or not
--   was_active     whether it has ever been active
--   failure_code   of the failure that last put it at risk
CREATE TABLE subscription_states (
    generation      integer NOT NULL,
    tenant_id       uuid NOT NULL,
    subscription_id uuid NOT NULL,
    pos             bigint NOT NULL,
    status          text NOT NULL,
    plan_id         uuid NOT NULL,
    currency        text NOT NULL,
    mrr             bigint NOT NULL,
    was_active      boolean NOT NULL,
    failure_code    text NOT NULL,
    PRIMARY KEY (generation, tenant_id, subscription_id)
) PARTITION BY LIST (generation);

SELECT add_projection('rollups', 'event_hours', 'movement_hours', 'recovery_hours', 'subscription_states');
