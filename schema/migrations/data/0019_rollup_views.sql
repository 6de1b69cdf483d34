-- The views of the rollups that are published for analysts. docs/analytics.md repeats their comments.

-- A sum as a bigint, or null where it does not fit: one tenant's absurd amounts must not fail a query about
-- all tenants.
CREATE FUNCTION to_bigint(total numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN abs(total) <= 9223372036854775807 THEN total::bigint END;

-- A store's time zone is not checked when it is saved, and an unknown one would fail every query that uses
-- it. A name that PostgreSQL would take for a POSIX zone, such as UTC+1, would have the opposite sign of
-- what people mean.
CREATE FUNCTION time_zone_or_lagos(zone text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF zone !~ '^[A-Za-z_]+$|^[A-Za-z_]+/' THEN
        RETURN 'Africa/Lagos';
    END IF;
    PERFORM now() AT TIME ZONE zone;
    RETURN coalesce(zone, 'Africa/Lagos');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN 'Africa/Lagos';
END $$;

-- Every view starts from here and joins by the tenant's index, so a condition on tenant_id reads only that
-- tenant's rows. The security_barrier keeps the planner from calling the three functions once per joined
-- row.
CREATE VIEW published_tenants WITH (security_barrier) AS
SELECT t.id, format_id('ten', t.id) AS tenant_id, t.name AS tenant_name,
       time_zone_or_lagos(s.time_zone) AS time_zone
  FROM core.tenants t
  LEFT JOIN core.store_configs s ON s.tenant_id = t.id;

CREATE VIEW hourly_events AS
SELECT t.tenant_id, t.tenant_name, h.hour, h.type,
       format_id('plan', nullif(h.plan_id, '00000000-0000-0000-0000-000000000000')) AS plan_id,
       nullif(h.rail, '') AS rail, nullif(h.failure_code, '') AS failure_code,
       nullif(h.currency, '') AS currency,
       h.events, h.unpriced, to_bigint(h.amount) AS amount,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
  JOIN event_hours h ON h.tenant_id = t.id
                    AND h.generation = (SELECT serving FROM projections WHERE name = 'rollups');

CREATE VIEW daily_revenue AS
SELECT t.tenant_id, t.tenant_name, d.day, nullif(d.currency, '') AS currency,
       d.payments, to_bigint(d.gross) AS gross, d.refunds, to_bigint(d.refunded) AS refunded,
       to_bigint(d.gross - d.refunded) AS net, d.unpriced,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT (h.hour AT TIME ZONE t.time_zone)::date AS day, h.currency,
               coalesce(sum(h.events) FILTER (WHERE h.type <> 'subscription_payment_refunded'), 0)::bigint
                   AS payments,
               coalesce(sum(h.amount) FILTER (WHERE h.type <> 'subscription_payment_refunded'), 0) AS gross,
               coalesce(sum(h.events) FILTER (WHERE h.type = 'subscription_payment_refunded'), 0)::bigint
                   AS refunds,
               coalesce(sum(h.amount) FILTER (WHERE h.type = 'subscription_payment_refunded'), 0) AS refunded,
               sum(h.unpriced)::bigint AS unpriced
          FROM event_hours h
         WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
           AND h.tenant_id = t.id
           AND h.type IN ('subscription_payment_success', 'subscription_payment_recovered',
                          'subscription_payment_refunded')
         GROUP BY 1, 2) d;

CREATE VIEW hourly_payments AS
SELECT t.tenant_id, t.tenant_name, p.hour,
       format_id('plan', nullif(p.plan_id, '00000000-0000-0000-0000-000000000000')) AS plan_id,
       nullif(p.rail, '') AS rail, nullif(p.currency, '') AS currency,
       p.attempts, p.succeeded, p.attempts - p.succeeded AS failed,
       round(p.succeeded::numeric / p.attempts, 4) AS success_rate,
       to_bigint(p.succeeded_amount) AS succeeded_amount, to_bigint(p.failed_amount) AS failed_amount,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT h.hour, h.plan_id, h.rail, h.currency,
               sum(h.events)::bigint AS attempts,
               coalesce(sum(h.events) FILTER (WHERE h.type <> 'subscription_payment_failed'), 0)::bigint
                   AS succeeded,
               coalesce(sum(h.amount) FILTER (WHERE h.type <> 'subscription_payment_failed'), 0)
                   AS succeeded_amount,
               coalesce(sum(h.amount) FILTER (WHERE h.type = 'subscription_payment_failed'), 0)
                   AS failed_amount
          FROM event_hours h
         WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
           AND h.tenant_id = t.id
           AND h.type IN ('subscription_payment_success', 'subscription_payment_recovered',
                          'subscription_payment_failed')
         GROUP BY 1, 2, 3, 4) p;

CREATE VIEW daily_payments AS
SELECT t.tenant_id, t.tenant_name, p.day,
       format_id('plan', nullif(p.plan_id, '00000000-0000-0000-0000-000000000000')) AS plan_id,
       nullif(p.rail, '') AS rail, nullif(p.currency, '') AS currency,
       p.attempts, p.succeeded, p.attempts - p.succeeded AS failed,
       round(p.succeeded::numeric / p.attempts, 4) AS success_rate,
       to_bigint(p.succeeded_amount) AS succeeded_amount, to_bigint(p.failed_amount) AS failed_amount,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT (h.hour AT TIME ZONE t.time_zone)::date AS day, h.plan_id, h.rail, h.currency,
               sum(h.events)::bigint AS attempts,
               coalesce(sum(h.events) FILTER (WHERE h.type <> 'subscription_payment_failed'), 0)::bigint
                   AS succeeded,
               coalesce(sum(h.amount) FILTER (WHERE h.type <> 'subscription_payment_failed'), 0)
                   AS succeeded_amount,
               coalesce(sum(h.amount) FILTER (WHERE h.type = 'subscription_payment_failed'), 0)
                   AS failed_amount
          FROM event_hours h
         WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
           AND h.tenant_id = t.id
           AND h.type IN ('subscription_payment_success', 'subscription_payment_recovered',
                          'subscription_payment_failed')
         GROUP BY 1, 2, 3, 4) p;

CREATE VIEW recovery AS
SELECT t.tenant_id, t.tenant_name, r.day,
       nullif(r.failure_code, '') AS failure_code, nullif(r.currency, '') AS currency,
       r.at_risk, to_bigint(r.at_risk_amount) AS at_risk_amount,
       r.recovered, to_bigint(r.recovered_amount) AS recovered_amount,
       r.exhausted, to_bigint(r.exhausted_amount) AS exhausted_amount,
       r.cancelled, to_bigint(r.cancelled_amount) AS cancelled_amount,
       r.won_back, to_bigint(r.won_back_amount) AS won_back_amount,
       round(r.recovered::numeric / nullif(r.recovered + r.exhausted + r.cancelled, 0), 4) AS recovery_rate,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT (h.hour AT TIME ZONE t.time_zone)::date AS day, h.failure_code, h.currency,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'at_risk'), 0)::bigint AS at_risk,
               coalesce(sum(h.amount) FILTER (WHERE h.kind = 'at_risk'), 0) AS at_risk_amount,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'recovered'), 0)::bigint AS recovered,
               coalesce(sum(h.amount) FILTER (WHERE h.kind = 'recovered'), 0) AS recovered_amount,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'exhausted'), 0)::bigint AS exhausted,
               coalesce(sum(h.amount) FILTER (WHERE h.kind = 'exhausted'), 0) AS exhausted_amount,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'cancelled'), 0)::bigint AS cancelled,
               coalesce(sum(h.amount) FILTER (WHERE h.kind = 'cancelled'), 0) AS cancelled_amount,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'won_back'), 0)::bigint AS won_back,
               coalesce(sum(h.amount) FILTER (WHERE h.kind = 'won_back'), 0) AS won_back_amount
          FROM recovery_hours h
         WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
           AND h.tenant_id = t.id
         GROUP BY 1, 2, 3) r;

CREATE VIEW subscription_movements AS
SELECT t.tenant_id, t.tenant_name, m.day,
       format_id('plan', nullif(m.plan_id, '00000000-0000-0000-0000-000000000000')) AS plan_id,
       nullif(m.currency, '') AS currency,
       m.new, m.reactivated, m.resumed, m.expanded, m.contracted, m.switched, m.paused,
       m.churned_voluntary, m.churned_involuntary, m.completed,
       m.counted_change, to_bigint(m.mrr_change) AS mrr_change,
       (SELECT as_of('rollups')) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT (h.hour AT TIME ZONE t.time_zone)::date AS day, h.plan_id, h.currency,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'new'), 0)::bigint AS new,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'reactivation'), 0)::bigint
                   AS reactivated,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'resumed'), 0)::bigint AS resumed,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'expansion'), 0)::bigint AS expanded,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'contraction'), 0)::bigint AS contracted,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'switch'), 0)::bigint AS switched,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'paused'), 0)::bigint AS paused,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'churn_voluntary'), 0)::bigint
                   AS churned_voluntary,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'churn_involuntary'), 0)::bigint
                   AS churned_involuntary,
               coalesce(sum(h.subscriptions) FILTER (WHERE h.kind = 'completed'), 0)::bigint AS completed,
               sum(h.counted)::bigint AS counted_change, sum(h.mrr) AS mrr_change
          FROM movement_hours h
         WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
           AND h.tenant_id = t.id
         GROUP BY 1, 2, 3) m;

CREATE VIEW mrr AS
WITH now AS MATERIALIZED (SELECT as_of('rollups') AS as_of)
SELECT t.tenant_id, t.tenant_name, d.day, nullif(d.currency, '') AS currency,
       to_bigint(d.closing - d.change) AS opening, to_bigint(d.new) AS new,
       to_bigint(d.reactivation) AS reactivation, to_bigint(d.resumed) AS resumed,
       to_bigint(d.expansion) AS expansion, to_bigint(d.contraction) AS contraction,
       to_bigint(d.paused) AS paused, to_bigint(d.churn_voluntary) AS churn_voluntary,
       to_bigint(d.churn_involuntary) AS churn_involuntary, to_bigint(d.completed) AS completed,
       to_bigint(d.closing) AS closing, d.subscriptions,
       now.as_of
  FROM now
 CROSS JOIN published_tenants t
 CROSS JOIN LATERAL (
        WITH moved AS MATERIALIZED (
            SELECT (h.hour AT TIME ZONE t.time_zone)::date AS day, h.currency,
                   sum(h.mrr) FILTER (WHERE h.kind = 'new') AS new,
                   sum(h.mrr) FILTER (WHERE h.kind = 'reactivation') AS reactivation,
                   sum(h.mrr) FILTER (WHERE h.kind = 'resumed') AS resumed,
                   sum(h.mrr) FILTER (WHERE h.kind = 'expansion') AS expansion,
                   sum(h.mrr) FILTER (WHERE h.kind = 'contraction') AS contraction,
                   sum(h.mrr) FILTER (WHERE h.kind = 'paused') AS paused,
                   sum(h.mrr) FILTER (WHERE h.kind = 'churn_voluntary') AS churn_voluntary,
                   sum(h.mrr) FILTER (WHERE h.kind = 'churn_involuntary') AS churn_involuntary,
                   sum(h.mrr) FILTER (WHERE h.kind = 'completed') AS completed,
                   sum(h.mrr) AS change, sum(h.counted) AS counted
              FROM movement_hours h
             WHERE h.generation = (SELECT serving FROM projections WHERE name = 'rollups')
               AND h.tenant_id = t.id
             GROUP BY 1, 2
        ), days AS (
            SELECT c.currency, c.first + n AS day
              FROM (SELECT currency, min(day) AS first,
                           greatest(max(day), (now.as_of AT TIME ZONE t.time_zone)::date) AS last
                      FROM moved GROUP BY currency) c
             CROSS JOIN LATERAL generate_series(0, c.last - c.first) AS n
        )
        SELECT d.day, d.currency, coalesce(m.new, 0) AS new, coalesce(m.reactivation, 0) AS reactivation,
               coalesce(m.resumed, 0) AS resumed, coalesce(m.expansion, 0) AS expansion,
               coalesce(m.contraction, 0) AS contraction, coalesce(m.paused, 0) AS paused,
               coalesce(m.churn_voluntary, 0) AS churn_voluntary,
               coalesce(m.churn_involuntary, 0) AS churn_involuntary, coalesce(m.completed, 0) AS completed,
               coalesce(m.change, 0) AS change,
               sum(coalesce(m.change, 0)) OVER of_currency AS closing,
               (sum(coalesce(m.counted, 0)) OVER of_currency)::bigint AS subscriptions
          FROM days d
          LEFT JOIN moved m ON m.day = d.day AND m.currency = d.currency
        WINDOW of_currency AS (PARTITION BY d.currency ORDER BY d.day)) d;

COMMENT ON VIEW hourly_events IS
    'Events of each type, by hour (UTC), plan, rail, failure code and currency.';
COMMENT ON VIEW daily_revenue IS
    'Money received and refunded, by day in the tenant''s time zone and by currency. Currencies are never '
    'added together.';
COMMENT ON VIEW hourly_payments IS
    'Charges that succeeded or failed, by hour (UTC), plan, rail and currency.';
COMMENT ON VIEW daily_payments IS
    'Charges that succeeded or failed, by day in the tenant''s time zone, plan, rail and currency.';
COMMENT ON VIEW recovery IS
    'Failed renewals and the outcome of their recovery, by day in the tenant''s time zone, failure code and '
    'currency.';
COMMENT ON VIEW subscription_movements IS
    'Subscriptions that started to count for MRR, stopped counting or changed, by day in the tenant''s time '
    'zone, plan and currency.';
COMMENT ON VIEW mrr IS
    'Monthly recurring revenue (MRR) at the end of each day in the tenant''s time zone, by currency. Opening '
    'plus the movements equals closing. Every day from the first movement until as_of has a row. A '
    'subscription counts while it is active, and while it is past due after having been active. It counts '
    'with its monthly price, where a month is 1/12 year: hour x 730, day x 365/12, week x 365/84, month x 1, '
    'quarter / 3, biannual / 6, year / 12, rounded half up to whole minor units. Discounts are not included.';

-- A column means the same in every view that has it.
DO $$
DECLARE
    meaning record;
    found   record;
BEGIN
    FOR meaning IN SELECT * FROM (VALUES
        ('tenant_id', 'the tenant''s id, ten_...'),
        ('tenant_name', 'the tenant''s name'),
        ('day', 'day in the tenant''s time zone (its store''s, or Africa/Lagos), made of whole hours of UTC'),
        ('hour', 'start of the hour, UTC'),
        ('type', 'event type, as in the catalog'),
        ('plan_id', 'the plan''s id, plan_...; null if the events have none'),
        ('rail', 'payment rail; null if the events have none'),
        ('failure_code', 'why the charge failed; null if the events have none. In recovery: of the failure '
                         'that started it'),
        ('currency', 'currency of the row''s amounts (ISO 4217); null if the events have none'),
        ('as_of', 'no committed event before this time is missing, except dead-lettered events'),
        ('events', 'number of events'),
        ('unpriced', 'events without an amount, which are in no sum'),
        ('amount', 'sum of the events'' amounts, in minor units (kobo for NGN)'),
        ('payments', 'successful charges, including recovered ones'),
        ('gross', 'sum of the successful charges, in minor units'),
        ('refunds', 'refunds made on that day, whatever the day of the charge'),
        ('refunded', 'sum of the refunds, in minor units'),
        ('net', 'gross - refunded'),
        ('attempts', 'charges that succeeded or failed'),
        ('succeeded', 'charges that succeeded'),
        ('failed', 'charges that failed'),
        ('success_rate', 'succeeded / attempts, from 0 to 1'),
        ('succeeded_amount', 'sum of the charges that succeeded, in minor units'),
        ('failed_amount', 'sum of the charges that failed, in minor units; each retry counts'),
        ('at_risk', 'renewals that failed, which starts recovery'),
        ('at_risk_amount', 'price of one period of these subscriptions, in minor units'),
        ('recovered', 'recoveries that ended with a payment'),
        ('recovered_amount', 'sum of these payments, in minor units'),
        ('exhausted', 'recoveries that ended without a payment: the subscription is unpaid'),
        ('exhausted_amount', 'price of one period of these subscriptions, in minor units'),
        ('cancelled', 'recoveries that ended because the subscription was cancelled'),
        ('cancelled_amount', 'price of one period of these subscriptions, in minor units'),
        ('won_back', 'subscriptions paid after their recovery was exhausted; not in recovery_rate'),
        ('won_back_amount', 'sum of these payments, in minor units'),
        ('recovery_rate', 'recovered / (recovered + exhausted + cancelled), of the recoveries that ended on '
                          'that day'),
        ('reactivated', 'subscriptions that count again after churn or completion'),
        ('expanded', 'subscriptions whose monthly price rose, or that changed to this currency'),
        ('contracted', 'subscriptions whose monthly price fell, or that changed from this currency'),
        ('switched', 'subscriptions that changed to another plan with the same monthly price'),
        ('churned_voluntary', 'subscriptions cancelled for any reason but fraud, including paused ones'),
        ('churned_involuntary', 'subscriptions lost to failed payments (unpaid) or fraud'),
        ('counted_change', 'change of the number of subscriptions that count for MRR'),
        ('mrr_change', 'change of MRR, in minor units'),
        ('opening', 'MRR at the start of the day, in minor units'),
        ('reactivation', 'MRR of subscriptions that count again after churn or completion, in minor units'),
        ('expansion', 'MRR from higher prices, in minor units'),
        ('contraction', 'MRR lost to lower prices, in minor units, negative'),
        ('churn_voluntary', 'MRR lost to cancellations, in minor units, negative'),
        ('churn_involuntary', 'MRR lost to failed payments or fraud, in minor units, negative'),
        ('closing', 'MRR at the end of the day, or at as_of, in minor units'),
        ('subscriptions', 'subscriptions that count for MRR at that time')
    ) AS m (name, text) LOOP
        FOR found IN SELECT attrelid::regclass AS view FROM pg_attribute
                      WHERE attname = meaning.name
                        AND attrelid = ANY (ARRAY['hourly_events', 'daily_revenue', 'hourly_payments',
                                                  'daily_payments', 'recovery', 'subscription_movements',
                                                  'mrr']::regclass[]) LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', found.view, meaning.name, meaning.text);
        END LOOP;
    END LOOP;
END $$;
COMMENT ON COLUMN subscription_movements.new IS 'subscriptions that count for the first time';
COMMENT ON COLUMN subscription_movements.resumed IS 'subscriptions that count again after a pause';
COMMENT ON COLUMN subscription_movements.paused IS 'subscriptions that were paused';
COMMENT ON COLUMN subscription_movements.completed IS 'subscriptions that reached their last cycle';
COMMENT ON COLUMN mrr.new IS 'MRR of subscriptions that count for the first time, in minor units';
COMMENT ON COLUMN mrr.resumed IS 'MRR of subscriptions that resumed after a pause, in minor units';
COMMENT ON COLUMN mrr.paused IS 'MRR lost to pauses, in minor units, negative';
COMMENT ON COLUMN mrr.completed IS
    'MRR of subscriptions that reached their last cycle, in minor units, negative';
