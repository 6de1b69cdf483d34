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

COMMENT ON VIEW hourly_events IS 'How many events of each type, by hour (UTC) and by what they tell.';
COMMENT ON VIEW daily_revenue IS
    'Money received and given back, by day in the tenant''s time zone and currency. Currencies are never '
    'added together.';
COMMENT ON VIEW hourly_payments IS 'Charges and how they ended, by hour (UTC), plan, rail and currency.';
COMMENT ON VIEW daily_payments IS
    'Charges and how they ended, by day in the tenant''s time zone, plan, rail and currency.';
COMMENT ON VIEW recovery IS
    'Subscriptions whose renewal failed and how their recovery ended, by day in the tenant''s time zone, by '
    'the failure that it began with, and currency.';
COMMENT ON VIEW subscription_movements IS
    'Subscriptions that came to count for MRR, ceased to, or changed, by day in the tenant''s time zone, '
    'plan and currency.';
COMMENT ON VIEW mrr IS
    'Monthly recurring revenue at the end of each day in the tenant''s time zone, by currency, and what it '
    'came from: opening and the movements add up to closing. Every day from the first movement until as_of '
    'has a row. A subscription counts while it is active, and while it is past due after having been active '
    'once. It counts for its price in a month of 1/12 year: hour x 730, day x 365/12, week x 365/84, '
    'month x 1, quarter / 3, biannual / 6, year / 12, rounded half up to whole kobo; discounts are not '
    'in it.';

-- A column means the same in every view that has it.
DO $$
DECLARE
    meaning record;
    found   record;
BEGIN
    FOR meaning IN SELECT * FROM (VALUES
        ('tenant_id', 'ten_..., the merchant'),
        ('tenant_name', 'the merchant''s name'),
        ('day', 'a day in the tenant''s time zone (its store''s, or Africa/Lagos), made of hours of UTC'),
        ('hour', 'the beginning of an hour, UTC'),
        ('type', 'of event, as in the catalog'),
        ('plan_id', 'plan_..., null where the events tell none'),
        ('rail', 'how the money was moved, null where the events tell none'),
        ('failure_code', 'why a charge failed, null where the events tell none; in recovery: the failure '
                         'that it began with'),
        ('currency', 'of all amounts of the row (ISO 4217), null where the events tell none'),
        ('as_of', 'no committed event before this time is missing, except dead-lettered events'),
        ('events', 'how many'),
        ('unpriced', 'events among them that tell no amount with a currency: their money is in no sum'),
        ('amount', 'what the events tell in all, in kobo (the currency''s smallest unit)'),
        ('payments', 'charges that succeeded, recovered ones among them'),
        ('gross', 'what they brought, in kobo'),
        ('refunds', 'refunds made on that day, whenever the charge was'),
        ('refunded', 'what they gave back, in kobo'),
        ('net', 'gross - refunded'),
        ('attempts', 'how many ended'),
        ('succeeded', 'of the attempts'),
        ('failed', 'of the attempts'),
        ('success_rate', 'succeeded / attempts, from 0 to 1'),
        ('succeeded_amount', 'in kobo'),
        ('failed_amount', 'in kobo; a charge that is tried again is in it each time'),
        ('at_risk', 'renewals that failed: recovery began'),
        ('at_risk_amount', 'what a period of these costs, in kobo'),
        ('recovered', 'recoveries that ended with the money'),
        ('recovered_amount', 'that money, in kobo'),
        ('exhausted', 'recoveries that ended without it: unpaid'),
        ('exhausted_amount', 'what a period of these costs, in kobo'),
        ('cancelled', 'recoveries that ended because the subscription was cancelled'),
        ('cancelled_amount', 'what a period of these costs, in kobo'),
        ('won_back', 'paid after recovery had been exhausted; not in the rate'),
        ('won_back_amount', 'that money, in kobo'),
        ('recovery_rate', 'recovered / (recovered + exhausted + cancelled): of the recoveries that ended on '
                          'that day'),
        ('reactivated', 'subscriptions that count again after churn or completion'),
        ('expanded', 'subscriptions whose price in a month rose; also those that came from another currency'),
        ('contracted', 'subscriptions whose price in a month fell; also those that went to another currency'),
        ('switched', 'subscriptions that went to another plan at the same price in a month'),
        ('churned_voluntary', 'subscriptions cancelled on request, for whatever reason but fraud; '
                              'paused ones too'),
        ('churned_involuntary', 'subscriptions lost because dunning ran out (unpaid) or for fraud'),
        ('counted_change', 'how many more subscriptions count than before; negative: fewer'),
        ('mrr_change', 'how much more MRR than before, in kobo; negative: less'),
        ('opening', 'MRR at the beginning of the day, in kobo'),
        ('reactivation', 'MRR of subscriptions that count again after churn or completion, in kobo'),
        ('expansion', 'MRR of prices that rose, in kobo'),
        ('contraction', 'MRR of prices that fell, in kobo, negative'),
        ('churn_voluntary', 'MRR of what was cancelled on request, in kobo, negative'),
        ('churn_involuntary', 'MRR of what was lost to failed payments or fraud, in kobo, negative'),
        ('closing', 'MRR at the end of the day, or as of as_of, in kobo'),
        ('subscriptions', 'how many count then')
    ) AS m (name, says) LOOP
        FOR found IN SELECT attrelid::regclass AS view FROM pg_attribute
                      WHERE attname = meaning.name
                        AND attrelid = ANY (ARRAY['hourly_events', 'daily_revenue', 'hourly_payments',
                                                  'daily_payments', 'recovery', 'subscription_movements',
                                                  'mrr']::regclass[]) LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', found.view, meaning.name, meaning.says);
        END LOOP;
    END LOOP;
END $$;
COMMENT ON COLUMN subscription_movements.new IS 'subscriptions that count for the first time';
COMMENT ON COLUMN subscription_movements.resumed IS 'subscriptions that count again after a pause';
COMMENT ON COLUMN subscription_movements.paused IS 'subscriptions that were paused';
COMMENT ON COLUMN subscription_movements.completed IS 'subscriptions that reached their last cycle';
COMMENT ON COLUMN mrr.new IS 'MRR of subscriptions that count for the first time, in kobo';
COMMENT ON COLUMN mrr.resumed IS 'MRR that came back after a pause, in kobo';
COMMENT ON COLUMN mrr.paused IS 'MRR that left with a pause, in kobo, negative';
COMMENT ON COLUMN mrr.completed IS 'MRR of subscriptions that reached their last cycle, in kobo, negative';
