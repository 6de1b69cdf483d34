"""The README's examples run, against a webhook that is signed as a worker signs it."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from delivery.message.endpoint_secret import generate_secret
from delivery.message.signing import signed_headers, signing_keys
from schema.ids import TENANT, format_id

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BODY = (
    '{"id":"evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6","type":"invoice_created",'
    '"createdAt":"2026-06-28T09:00:00.000Z","data":{"note":"₦5,000.00"}}'
).encode()

CALL_PYTHON = """
import json, sys
given = json.load(sys.stdin)
print(json.dumps(verify(given["secret"], given["headers"], given["body"].encode())))
"""
CALL_NODE = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0));
console.log(JSON.stringify(verify(given.secret, given.headers, Buffer.from(given.body))));
"""


def block(language: str) -> str:
    """The README's only code block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


def run_example(language: str, tmp_path: Path, body: bytes) -> subprocess.CompletedProcess[str]:
    """The example given a webhook whose signature is of BODY, as an HTTP library would hand it over."""
    secret = generate_secret()
    headers = signed_headers(
        signing_keys([secret]),
        event_id="evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6",
        event_type="invoice_created",
        timestamp=int(time.time()),
        body=BODY,
    )
    if language == "python":
        command, file, call = [sys.executable], "example.py", CALL_PYTHON
    else:
        command, file, call = ["node"], "example.mjs", CALL_NODE
    (tmp_path / file).write_text(block(language) + call, encoding="utf-8")
    given = {
        "secret": secret,
        "headers": {name.lower(): value for name, value in headers},
        "body": body.decode(),
    }
    return subprocess.run(
        [*command, file], input=json.dumps(given), capture_output=True, text=True, cwd=tmp_path, check=False
    )


@pytest.mark.parametrize("language", ["python", "js"])
def test_the_receiver_examples_accept_only_what_we_signed(language: str, tmp_path: Path) -> None:
    if language == "js" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    genuine = run_example(language, tmp_path, BODY)
    assert genuine.returncode == 0, genuine.stderr
    assert json.loads(genuine.stdout) == json.loads(BODY)
    assert run_example(language, tmp_path, BODY.replace(b"5,000", b"9,000")).returncode != 0


async def test_the_sql_example_records_an_event(
    db_url: str, tenant: object, owner: asyncpg.Connection
) -> None:
    """In a producer's own transaction, here one that has its own invoices."""
    example = block("sql").replace("ten_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6", format_id(TENANT, tenant))  # type: ignore[arg-type]
    await owner.execute("SET search_path = live; CREATE TEMP TABLE invoices (id text, status text)")
    await owner.execute(example)
    assert await owner.fetchval("SELECT data ->> 'invoiceId' FROM events") == "inv_1"
