"""The billing tables have the indexes that they need, and no others. (test_billing_plans.py has what walking them costs.)"""

from schema.connections.database import Database
from schema.modes import Mode
from tests.support.billing.billing_rows import TABLES
from tests.support.billing.billing_statements import billing_statements
from tests.support.database_catalog import foreign_keys, indexes
from tests.support.plans import planned

SCHEMA = Mode.TEST.schema


async def test_every_reference_to_a_deletable_row_is_indexed(database: Database) -> None:
    data = database.data(Mode.TEST)
    known = [(index["table"], index["columns"]) for index in (await indexes(data, SCHEMA, *TABLES)).values()]
    needed = [key for key in await foreign_keys(data, SCHEMA, *TABLES) if key["parent_may_go"]]
    assert {(key["table"], key["parent"]) for key in needed} == {
        ("subscriptions", "plans"),
        ("payment_links", "plans"),
        ("checkout_sessions", "plans"),
        ("checkout_sessions", "payment_links"),
    }
    for key in needed:
        needs, count = (key["table"], key["columns"]), len(key["columns"])
        assert any((table, columns[:count]) == needs for table, columns in known), key["name"]


async def test_every_index_earns_its_keep(database: Database) -> None:
    """It guards a rule, or a statement walks it, or it is behind a reference to what may be deleted: it is a file in every
    database, and something to write for every row."""
    async with database.data(Mode.TEST).acquire() as data:
        known = await indexes(data, SCHEMA, *TABLES)
        keys = await foreign_keys(data, SCHEMA, *TABLES)
        walked = [(await planned(data, statement)).indexes for _, statement in billing_statements()]
    behind = [(key["table"], key["columns"]) for key in keys if key["parent_may_go"]]
    useless = {
        name
        for name, index in known.items()
        if not index["guards"]
        and name not in set().union(*walked)
        and (index["table"], index["columns"]) not in behind
    }
    assert useless == {"idempotency_keys_by_age"}, "which waits for the HTTP API"
