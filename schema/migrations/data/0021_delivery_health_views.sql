-- The views of the delivery hours that are published for analysts. docs/analytics.md repeats their comments.

CREATE VIEW hourly_delivery_health AS
SELECT t.tenant_id, t.tenant_name, format_id('we', h.endpoint_id) AS endpoint_id, h.hour,
       h.attempts, h.ok AS succeeded, round(h.ok::numeric / h.attempts, 4) AS success_rate,
       h.http_status, h.timeout, h.dns, h.connect, h.tls, h.protocol, h.blocked,
       latency_quantile(h.latency::bigint[], 0.5) AS p50_ms,
       latency_quantile(h.latency::bigint[], 0.95) AS p95_ms,
       latency_quantile(h.latency::bigint[], 0.99) AS p99_ms, h.latency,
       (SELECT attempts_as_of()) AS as_of
  FROM published_tenants t
  JOIN delivery_hours h ON h.tenant_id = t.id;

CREATE VIEW delivery_health AS
SELECT t.tenant_id, t.tenant_name, format_id('we', d.endpoint_id) AS endpoint_id, d.day,
       d.attempts, d.ok AS succeeded, round(d.ok::numeric / d.attempts, 4) AS success_rate,
       d.http_status, d.timeout, d.dns, d.connect, d.tls, d.protocol, d.blocked,
       latency_quantile(d.latency, 0.5) AS p50_ms, latency_quantile(d.latency, 0.95) AS p95_ms,
       latency_quantile(d.latency, 0.99) AS p99_ms,
       (SELECT attempts_as_of()) AS as_of
  FROM published_tenants t
 CROSS JOIN LATERAL (
        SELECT h.endpoint_id, (h.hour AT TIME ZONE t.time_zone)::date AS day,
               sum(h.attempts)::bigint AS attempts, sum(h.ok)::bigint AS ok,
               sum(h.http_status)::bigint AS http_status, sum(h.timeout)::bigint AS timeout,
               sum(h.dns)::bigint AS dns, sum(h.connect)::bigint AS connect, sum(h.tls)::bigint AS tls,
               sum(h.protocol)::bigint AS protocol, sum(h.blocked)::bigint AS blocked,
               histogram_sum(h.latency) AS latency
          FROM delivery_hours h
         WHERE h.tenant_id = t.id
         GROUP BY 1, 2) d;

COMMENT ON VIEW hourly_delivery_health IS
    'Attempts to each endpoint and their outcomes, by the hour (UTC) in which they started. Retries and '
    'replays are included.';
COMMENT ON VIEW delivery_health IS
    'Attempts to each endpoint and their outcomes, by the day in the tenant''s time zone on which they '
    'started. Retries and replays are included.';
DO $$
DECLARE
    meaning record;
    found   record;
BEGIN
    FOR meaning IN SELECT * FROM (VALUES
        ('tenant_id', 'the tenant''s id, ten_...'),
        ('tenant_name', 'the tenant''s name'),
        ('endpoint_id', 'the endpoint''s id, we_...'),
        ('day', 'day in the tenant''s time zone (its store''s, or Africa/Lagos), made of whole hours of UTC'),
        ('hour', 'start of the hour, UTC'),
        ('attempts', 'number of attempts'),
        ('succeeded', 'attempts with a 2xx response'),
        ('success_rate', 'succeeded / attempts, from 0 to 1'),
        ('http_status', 'attempts with any other response'),
        ('timeout', 'attempts without a response in time'),
        ('dns', 'attempts whose host name did not resolve'),
        ('connect', 'attempts that could not connect'),
        ('tls', 'attempts whose TLS handshake failed'),
        ('protocol', 'attempts whose response was not valid HTTP'),
        ('blocked', 'attempts whose target the egress guard blocked'),
        ('p50_ms', 'median latency of the attempts with a response, in milliseconds; error up to a fifth'),
        ('p95_ms', '95th percentile of that latency, in milliseconds; error up to a fifth'),
        ('p99_ms', '99th percentile of that latency, in milliseconds; error up to a fifth'),
        ('latency', 'histogram of that latency; for several rows: '
                    'latency_quantile(histogram_sum(latency), 0.9)'),
        ('as_of', 'no recorded attempt that ended before this time is missing')
    ) AS m (name, text) LOOP
        FOR found IN SELECT attrelid::regclass AS view FROM pg_attribute
                      WHERE attname = meaning.name
                        AND attrelid = ANY (ARRAY['hourly_delivery_health', 'delivery_health']::regclass[])
        LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', found.view, meaning.name, meaning.text);
        END LOOP;
    END LOOP;
END $$;
