"""Fills a database with a history by SQL in seconds: tens of thousands of rows over three months' partitions.

events       1 … LOGGED have positions, in order of time; ten tenants take turns
deliveries   each event has one, delivered with its attempt, spread over the tenants' endpoints
backlog      the dead endpoint has DEAD more that are pending and due; WAITING others have one each that is due
leases       worker 1 holds LEASED of them
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from tests.support.servers.connections import SUPERUSER, connections
from tests.support.servers.databases import Cluster

TENANTS = 10
ENDPOINTS = 200
LOGGED = 30_000
DEAD = 10_000
WAITING = 50
LEASED = 300
DEAD_ENDPOINT = UUID(int=0xDEAD)

PAST = f"""
SELECT ensure_partitions(12);

INSERT INTO core.tenants (id, name) SELECT lpad(n::text, 32, '0')::uuid, 'tenant ' || n FROM generate_series(1, {TENANTS}) n;
INSERT INTO core.webhook_endpoints (id, tenant_id, mode, url)
SELECT lpad(to_hex(n), 32, '0')::uuid, lpad((n % {TENANTS} + 1)::text, 32, '0')::uuid,
       CASE n % 4 WHEN 3 THEN 'live' ELSE 'test' END, 'https://merchant.example'
  FROM generate_series(1, {ENDPOINTS}) n;
INSERT INTO core.webhook_endpoint_secrets (id, endpoint_id, sealed)
SELECT gen_random_uuid(), id, 'sealed' FROM core.webhook_endpoints;

-- Ids in order of time, as ULIDs are; the transactions that wrote them are long over.
INSERT INTO events (id, tenant_id, type, data, created_at, xid)
SELECT lpad(to_hex(n), 32, '0')::uuid, lpad((n % {TENANTS} + 1)::text, 32, '0')::uuid, 'invoice_created',
       jsonb_build_object('n', n),
       date_trunc('month', now()) + make_interval(days => n * 88 / {LOGGED}, secs => n % 80000), (n / 100 + 3)::text::xid8
  FROM generate_series(1, {LOGGED}) n;
INSERT INTO event_log (pos, event_id, tenant_id, created_at)
SELECT row_number() OVER (ORDER BY created_at, id), id, tenant_id, created_at FROM events;
DELETE FROM sequencer;
INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)
SELECT pg_current_snapshot(), {LOGGED}, 0, system_identifier FROM pg_control_system();

INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at, retry_at,
                                attempts, settled_at)
SELECT gen_random_uuid(), tenant_id, lpad(to_hex(pos % {ENDPOINTS} + 1), 32, '0')::uuid, event_id, 'invoice_created',
       created_at, 'delivered', NULL, NULL, 1, now()
  FROM event_log;
INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at, outcome, total_ms, settled)
SELECT gen_random_uuid(), tenant_id, id, endpoint_id, created_at, false, now(), 'ok', 1, true FROM webhook_deliveries;

INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at, retry_at)
SELECT gen_random_uuid(), l.tenant_id, w.endpoint_id, l.event_id, 'invoice_created', l.created_at, 'pending',
       now() - interval '1 hour', now()
  FROM event_log l,
       LATERAL (SELECT '{DEAD_ENDPOINT}'::uuid AS endpoint_id WHERE l.pos <= {DEAD}
                UNION ALL
                SELECT gen_random_uuid() WHERE l.pos > {LOGGED} - {WAITING}) AS w;
UPDATE webhook_deliveries SET lease = 1, leased_by = 1, leased_until = now() + interval '1 minute'
 WHERE id IN (SELECT id FROM webhook_deliveries WHERE endpoint_id = '{DEAD_ENDPOINT}' AND status = 'pending' LIMIT {LEASED});
"""

# No triggers. Without counters, autovacuum does not analyze the tables at an unknown time.
_FAST_SETTINGS = "SET session_replication_role = replica; SET track_counts = off;"


@asynccontextmanager
async def copied(
    cluster: Cluster, template: str, *, also: str = "", analyze: bool = False
) -> AsyncIterator[str]:
    """Yields the name of a copy of the database after `also` ran in it.

    Without `analyze` it has no statistics on that.
    """
    async with cluster.fresh_database(template) as name:
        async with connections(cluster, name) as connect:
            superuser = await connect(SUPERUSER)
            await superuser.execute(_FAST_SETTINGS + also)
            if analyze:
                await superuser.execute("ANALYZE")
        yield name
