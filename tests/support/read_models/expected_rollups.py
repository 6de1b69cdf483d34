"""Computes the expected rollup views in plain SQL from the log alone, with window functions over the whole log.

It shares no code with the consumer. It is slow, and independent of the consumer's batches.
"""

from typing import Final

import asyncpg

_EVENT_FACTS: Final = r"""
CREATE TEMPORARY TABLE event_facts AS
SELECT l.pos, e.tenant_id, z.tenant, z.name, e.type, e.data, e.created_at,
       date_trunc('hour', e.created_at, 'UTC') AS hour,
       (date_trunc('hour', e.created_at, 'UTC') AT TIME ZONE z.zone)::date AS day,
       money.currency, CASE WHEN money.currency IS NOT NULL THEN money.amount END AS amount,
       CASE WHEN jsonb_typeof(data->'interval') = 'string' THEN data->>'interval' END AS "interval",
       CASE WHEN jsonb_typeof(data->'planId') = 'string' AND data->>'planId' ~ '^plan_[0-7][0-9A-HJKMNP-TV-Z]{25}$'
            THEN data->>'planId' END AS plan_id,
       CASE WHEN jsonb_typeof(data->'subscriptionId') = 'string'
             AND data->>'subscriptionId' ~ '^sub_[0-7][0-9A-HJKMNP-TV-Z]{25}$' THEN data->>'subscriptionId' END AS subscription,
       CASE WHEN jsonb_typeof(data->'rail') = 'string' AND data->>'rail' ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$'
            THEN data->>'rail' END AS rail,
       CASE WHEN jsonb_typeof(data->'failureCode') = 'string'
             AND data->>'failureCode' ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$' THEN data->>'failureCode' END AS code,
       CASE WHEN jsonb_typeof(data->'status') = 'string' AND data->>'status' IN
            ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'paused', 'unpaid', 'canceled', 'expired')
            THEN data->>'status' END AS event_status
  FROM event_log l
  JOIN events e ON e.id = l.event_id AND e.created_at = l.created_at
  JOIN (SELECT t.id, format_id('ten', t.id) AS tenant, t.name,
               CASE WHEN s.time_zone IN (SELECT name FROM pg_timezone_names) THEN s.time_zone ELSE 'Africa/Lagos' END AS zone
          FROM core.tenants t LEFT JOIN core.store_configs s ON s.tenant_id = t.id) z ON z.id = e.tenant_id
 CROSS JOIN LATERAL (
       SELECT event_facts.amount,
              CASE WHEN jsonb_typeof(data->'currency') = 'string' AND data->>'currency' ~ '^[A-Z]{3}$' THEN data->>'currency'
                   WHEN coalesce(jsonb_typeof(data->'currency'), 'null') = 'null' AND event_facts.amount IS NOT NULL THEN 'NGN'
              END AS currency
         FROM (SELECT CASE WHEN jsonb_typeof(data->'amount') = 'number' AND data->>'amount' ~ '^[0-9]{1,16}$' THEN
                           CASE WHEN (data->>'amount')::bigint <= 1000000000000000 THEN (data->>'amount')::bigint END
                      END AS amount) event_facts) money
 WHERE l.pos <> ALL ($1::bigint[]);
"""
"""$1: positions that are left out. Ids must be upper case, as in the catalog."""

PER_MONTH: Final = """CASE {interval}
    WHEN 'hour' THEN round({amount}::numeric(60, 30) * 730)
    WHEN 'day' THEN round({amount}::numeric(60, 30) * 365 / 12)
    WHEN 'week' THEN round({amount}::numeric(60, 30) * 365 / 84)
    WHEN 'month' THEN {amount}::numeric
    WHEN 'quarter' THEN round({amount}::numeric(60, 30) / 3)
    WHEN 'biannual' THEN round({amount}::numeric(60, 30) / 6)
    WHEN 'year' THEN round({amount}::numeric(60, 30) / 12) END"""

# One row per event of a subscription, with its state before and after. `_n` numbers the periods in which a
# value stays the same.
_LIVES: Final = f"""
CREATE TEMPORARY TABLE lives AS
WITH steps AS (
    SELECT *, CASE type
                WHEN 'subscription_created' THEN coalesce(event_status, 'incomplete')
                WHEN 'subscription_activated' THEN 'active' WHEN 'subscription_resumed' THEN 'active'
                WHEN 'subscription_recovered' THEN 'active' WHEN 'subscription_paused' THEN 'paused'
                WHEN 'subscription_past_due' THEN 'past_due' WHEN 'subscription_unpaid' THEN 'unpaid'
                WHEN 'subscription_expired' THEN 'expired' WHEN 'subscription_cancelled' THEN 'canceled'
                WHEN 'subscription_payment_recovered' THEN NULL
                ELSE event_status END AS new_status,
           CASE WHEN type <> 'subscription_payment_recovered' THEN plan_id END AS new_plan,
           CASE WHEN type <> 'subscription_payment_recovered' THEN
                CASE WHEN {PER_MONTH.format(amount="amount", interval='"interval"')} <= 1000000000000000
                     THEN {PER_MONTH.format(amount="amount", interval='"interval"')} END END AS new_mrr,
           CASE WHEN type = 'subscription_past_due' THEN coalesce(code, '') END AS new_began_with
      FROM event_facts
     WHERE subscription IS NOT NULL AND (type LIKE 'subscription%' AND type NOT LIKE 'subscription_payment%'
                                         OR type = 'subscription_payment_recovered')
), numbered AS (
    SELECT *, count(new_status) OVER life AS status_n, count(new_plan) OVER life AS plan_n,
           count(new_mrr) OVER life AS mrr_n, count(new_began_with) OVER life AS began_n
      FROM steps WINDOW life AS (PARTITION BY tenant_id, subscription ORDER BY pos)
), filled AS (
    SELECT *, coalesce(max(new_status) OVER (PARTITION BY tenant_id, subscription, status_n), 'incomplete') AS status,
           max(new_plan) OVER (PARTITION BY tenant_id, subscription, plan_n) AS plan,
           coalesce(max(new_mrr) OVER (PARTITION BY tenant_id, subscription, mrr_n), 0) AS mrr,
           max(CASE WHEN new_mrr IS NOT NULL THEN currency END) OVER (PARTITION BY tenant_id, subscription, mrr_n) AS cur,
           nullif(max(new_began_with) OVER (PARTITION BY tenant_id, subscription, began_n), '') AS began_with
      FROM numbered
), known AS (
    SELECT *, bool_or(status = 'active') OVER (PARTITION BY tenant_id, subscription ORDER BY pos) AS was_active
      FROM filled
), counted AS (
    SELECT *, status = 'active' OR status = 'past_due' AND was_active AS counts FROM known
)
SELECT *, lag(status) OVER life AS status_before, lag(plan) OVER life AS plan_before, lag(cur) OVER life AS cur_before,
       lag(mrr) OVER life AS mrr_before, coalesce(lag(counts) OVER life, false) AS counted_before,
       coalesce(lag(was_active) OVER life, false) AS was_active_before, lag(began_with) OVER life AS began_with_before
  FROM counted WINDOW life AS (PARTITION BY tenant_id, subscription ORDER BY pos);

CREATE TEMPORARY TABLE moved AS
SELECT tenant_id, tenant, name, hour, day, kind, m.plan, m.cur, m.n, m.counted, m.mrr
  FROM (SELECT *,
               CASE WHEN counts AND NOT counted_before THEN
                         CASE WHEN NOT was_active_before THEN 'new' WHEN status_before = 'paused' THEN 'resumed'
                              ELSE 'reactivation' END
                    WHEN counts AND cur IS NOT DISTINCT FROM cur_before THEN
                         CASE sign(mrr - mrr_before) WHEN 1 THEN 'expansion' WHEN -1 THEN 'contraction' ELSE 'switch' END
                    WHEN status = 'paused' THEN 'paused'
                    WHEN status = 'expired' THEN 'completed'
                    WHEN status = 'unpaid' OR data->'reason' = '"fraud"' THEN 'churn_involuntary'
                    ELSE 'churn_voluntary' END AS what,
               ROW(plan, cur) IS DISTINCT FROM ROW(plan_before, cur_before) AS elsewhere,
               cur IS DISTINCT FROM cur_before AS abroad
          FROM lives) l
 CROSS JOIN LATERAL (
        -- what is left behind
        SELECT CASE WHEN counts AND abroad THEN 'contraction' ELSE what END AS kind, plan_before AS plan, cur_before AS cur,
               CASE WHEN counts AND NOT abroad THEN 0 ELSE 1 END AS n, -1 AS counted, -mrr_before AS mrr
         WHERE counted_before AND (NOT counts OR elsewhere)
        UNION ALL
        -- what is entered
        SELECT CASE WHEN counted_before AND abroad THEN 'expansion' ELSE what END, plan, cur, 1, 1, mrr
         WHERE counts AND (NOT counted_before OR elsewhere)
        UNION ALL
        SELECT what, plan, cur, 1, 0, mrr - mrr_before
         WHERE counts AND counted_before AND NOT elsewhere AND mrr <> mrr_before
        UNION ALL
        -- the end of a pause
        SELECT what, plan_before, cur_before, 1, 0, 0
         WHERE status_before = 'paused' AND was_active_before AND status IN ('canceled', 'unpaid', 'expired')) m;

CREATE TEMPORARY TABLE risks AS
SELECT t.tenant, t.name, t.day, t.currency, coalesce(t.amount, 0) AS amount,
       CASE WHEN t.type = 'subscription_past_due' THEN t.code
            ELSE coalesce(CASE WHEN l.status_before IN ('past_due', 'unpaid') THEN l.began_with_before END, t.code) END AS code,
       CASE t.type WHEN 'subscription_past_due' THEN 'at_risk'
                   WHEN 'subscription_unpaid' THEN 'exhausted'
                   WHEN 'subscription_cancelled' THEN 'cancelled'
                   ELSE CASE WHEN l.status_before = 'unpaid' THEN 'won_back' ELSE 'recovered' END END AS kind
  FROM event_facts t
  LEFT JOIN lives l ON l.pos = t.pos
 WHERE t.type IN ('subscription_past_due', 'subscription_unpaid', 'subscription_payment_recovered')
    OR t.type = 'subscription_cancelled' AND l.status_before = 'past_due';
"""

_PAYMENTS: Final = """
SELECT tenant, name, {time}, plan_id, rail, currency, count(*), count(*) FILTER (WHERE worked),
       count(*) FILTER (WHERE NOT worked), round(count(*) FILTER (WHERE worked) / count(*)::numeric, 4),
       coalesce(sum(amount) FILTER (WHERE worked), 0)::bigint, coalesce(sum(amount) FILTER (WHERE NOT worked), 0)::bigint
  FROM (SELECT *, type <> 'subscription_payment_failed' AS worked FROM event_facts
         WHERE type IN ('subscription_payment_success', 'subscription_payment_recovered', 'subscription_payment_failed')) p
 GROUP BY 1, 2, 3, 4, 5, 6
"""


def _of(kind: str, what: str = "n") -> str:
    return f"coalesce(sum({what}) FILTER (WHERE kind = '{kind}'), 0)::bigint"


_KINDS: Final = (
    *("new", "reactivation", "resumed", "expansion", "contraction", "switch"),
    *("paused", "churn_voluntary", "churn_involuntary", "completed"),
)
_RISKS: Final = ("at_risk", "recovered", "exhausted", "cancelled", "won_back")

EXPECTED: Final = {
    "hourly_events": """
        SELECT tenant, name, hour, type, plan_id, rail, code, currency, count(*),
               count(*) FILTER (WHERE amount IS NULL), coalesce(sum(amount), 0)::bigint
          FROM event_facts GROUP BY 1, 2, 3, 4, 5, 6, 7, 8""",
    "daily_revenue": """
        SELECT tenant, name, day, currency,
               count(*) FILTER (WHERE way > 0), coalesce(sum(amount) FILTER (WHERE way > 0), 0)::bigint,
               count(*) FILTER (WHERE way < 0), coalesce(sum(amount) FILTER (WHERE way < 0), 0)::bigint,
               coalesce(sum(way * amount), 0)::bigint, count(*) FILTER (WHERE amount IS NULL)
          FROM event_facts JOIN (VALUES ('subscription_payment_success', 1), ('subscription_payment_recovered', 1),
                                 ('subscription_payment_refunded', -1)) AS ways (type, way) USING (type)
         GROUP BY 1, 2, 3, 4""",
    "hourly_payments": _PAYMENTS.format(time="hour"),
    "daily_payments": _PAYMENTS.format(time="day"),
    "recovery": f"""
        SELECT tenant, name, day, code, currency,
               {", ".join(f"count(*) FILTER (WHERE kind = '{kind}'), {_of(kind, 'amount')}" for kind in _RISKS)},
               round(count(*) FILTER (WHERE kind = 'recovered')
                     / nullif(count(*) FILTER (WHERE kind IN ('recovered', 'exhausted', 'cancelled')), 0)::numeric, 4)
          FROM risks GROUP BY 1, 2, 3, 4, 5""",
    "subscription_movements": f"""
        SELECT tenant, name, day, plan, cur, {", ".join(_of(kind) for kind in _KINDS)}, sum(counted), sum(mrr)::bigint
          FROM moved GROUP BY 1, 2, 3, 4, 5""",
    "mrr": f"""
        WITH reach AS (
            SELECT tenant_id, tenant, name, cur, min(day) AS first, max(day) AS last FROM moved GROUP BY 1, 2, 3, 4
        ), days AS (
            SELECT r.*, day::date AS day
              FROM reach r
              JOIN core.tenants t ON t.id = r.tenant_id
              LEFT JOIN core.store_configs s ON s.tenant_id = r.tenant_id,
                   generate_series(first::timestamp,
                                   greatest(last, (as_of('rollups') AT TIME ZONE CASE
                                       WHEN s.time_zone IN (SELECT name FROM pg_timezone_names) THEN s.time_zone
                                       ELSE 'Africa/Lagos' END)::date)::timestamp, '1 day') AS day
        ), sums AS (
            SELECT d.tenant, d.name, d.day, d.cur, coalesce(sum(m.mrr), 0) AS change, coalesce(sum(m.counted), 0) AS counted,
                   {", ".join(f"{_of(kind, 'mrr')} AS {kind}" for kind in _KINDS if kind != "switch")}
              FROM days d
              LEFT JOIN moved m ON m.tenant_id = d.tenant_id AND m.day = d.day AND m.cur IS NOT DISTINCT FROM d.cur
             GROUP BY 1, 2, 3, 4
        )
        SELECT tenant, name, day, cur, (sum(change) OVER life - change)::bigint,
               {", ".join(kind for kind in _KINDS if kind != "switch")},
               (sum(change) OVER life)::bigint, (sum(counted) OVER life)::bigint
          FROM sums WINDOW life AS (PARTITION BY tenant, cur ORDER BY day)""",
}
"""The expected rows by view, without as_of."""


async def differences(
    superuser: asyncpg.Connection, schema: str = "sandbox", *, without: list[int] | None = None
) -> dict[str, list[asyncpg.Record]]:
    """Returns by view the rows that differ from the expected ones.

    `without`: positions of events that are left out.
    """
    found = {}
    async with superuser.transaction():
        await superuser.execute(f"SET LOCAL search_path = {schema}; SET LOCAL statement_timeout = 0")
        positions = f"'{{{','.join(map(str, without or []))}}}'"
        await superuser.execute(
            "DROP TABLE IF EXISTS pg_temp.event_facts, pg_temp.lives, pg_temp.moved, pg_temp.risks"
        )
        await superuser.execute(
            _EVENT_FACTS.replace("$1", positions)
            + _LIVES
            + "ANALYZE event_facts; ANALYZE lives; ANALYZE moved"
        )
        for view, expected in EXPECTED.items():
            shown = f"SELECT {', '.join(await columns_of(superuser, schema, view))} FROM {schema}.{view}"
            found[view] = await superuser.fetch(
                f"(SELECT 'view alone', v.* FROM (({shown}) EXCEPT ALL ({expected})) v LIMIT 20)"
                f" UNION ALL (SELECT 'expected alone', r.* FROM (({expected}) EXCEPT ALL ({shown})) r LIMIT 20)"
            )
    return {view: rows for view, rows in found.items() if rows}


async def columns_of(connection: asyncpg.Connection, schema: str, view: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attname <> 'as_of' ORDER BY attnum",
        f"{schema}.{view}",
    )
    return [row["attname"] for row in rows]
