"""docs/analytics.md says of every published view and column what the database says."""

import re
from pathlib import Path

import asyncpg

from consumers.rollups.monthly_price import PER_MONTH

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "analytics.md").read_text(encoding="utf-8")
_PUBLISHED = """
SELECT c.relname AS view, obj_description(c.oid, 'pg_class') AS about,
       array_agg(format('| `%s` | %s | %s |', attname, format_type(atttypid, NULL), col_description(c.oid, attnum))
                 ORDER BY attnum) AS rows
  FROM pg_class c
  JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
 WHERE relnamespace = 'live'::regnamespace AND has_table_privilege('duro_live_analyst', c.oid, 'SELECT')
 GROUP BY c.oid, c.relname
"""


async def test_every_view_has_its_section_and_every_column_its_row(owner: asyncpg.Connection) -> None:
    published = await owner.fetch(_PUBLISHED)
    sections = re.findall(
        r"^### `(\w+)`\n\n(.*?)\n\n(.*?)(?=\n\n|\Z)", DOCUMENT.rstrip(), re.MULTILINE | re.DOTALL
    )
    assert {view for view, _, _ in sections} == {row["view"] for row in published}
    for row in published:
        ((_, about, table),) = [section for section in sections if section[0] == row["view"]]
        assert about == row["about"]
        assert table.splitlines()[2:] == row["rows"]


def test_intervals_are_brought_to_a_month_as_it_says() -> None:
    def says(times: int, over: int) -> str:
        return f"/ {over}" if times == 1 < over else f"x {times}" + f"/{over}" * (over > 1)

    document = DOCUMENT.replace("\N{MULTIPLICATION SIGN}", "x")
    rows = re.findall(r"^\| (\w+) \| ([x/] [\d/]+) \|$", document, re.MULTILINE)
    assert rows == [(interval, says(*fraction)) for interval, fraction in PER_MONTH.items()]


async def test_its_examples_are_answered_to_an_analyst(superuser: asyncpg.Connection) -> None:
    await superuser.execute("SET SESSION AUTHORIZATION duro_live_analyst; SET search_path = live")
    (examples,) = re.findall(r"^```sql\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    for example in examples.split(";"):
        await superuser.execute(example)
