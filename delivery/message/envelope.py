"""The body of a webhook: `{"id":"evt_…","type":"…","createdAt":"…","data":{…}}`, compact, in this order.

`data` arrives as PostgreSQL's `jsonb::text`, whose only insignificant whitespace is one space after a `:` or `,`.
It leaves as the same text without those spaces. Numbers keep their spelling: `1.10` and
12345678901234567890123 are amounts and ids, not floats.

orjson compacts the text, and its output is used only if both texts are equal once every space is removed. Removing
spaces cannot move the border between two tokens, so equal texts have equal numbers; strings keep their own spaces
because orjson returns them as it read them. If orjson changes the spelling, or the nesting is too deep for it, a
regular expression removes the spaces. For 0.7 KB and 8 KB: orjson with the check 4 and 40 µs, the pattern 16 and
180 µs, a plain `re.sub` over strings and spaces 93 and 1050 µs.
"""

import re
from datetime import datetime
from typing import Final

import orjson

from schema.timestamps import iso_millis

# Longest runs without a space outside a string. Possessive quantifiers, so the pattern never backtracks.
_RUN: Final = re.compile(r'(?:[^" ]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")++')


def envelope(event_id: str, event_type: str, created_at: datetime, data_json: str) -> bytes:
    """Builds the body. `event_id` as `evt_…`; `data_json` must be `jsonb::text`: other whitespace would be kept."""
    return b'{"id":"%b","type":%b,"createdAt":"%b","data":%b}' % (
        event_id.encode(),
        orjson.dumps(event_type),
        iso_millis(created_at).encode(),
        compact(data_json.encode()),
    )


def compact(jsonb_text: bytes) -> bytes:
    try:
        candidate = orjson.dumps(orjson.loads(jsonb_text))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # nested deeper than orjson supports
        return _compact_by_pattern(jsonb_text)
    if candidate.replace(b" ", b"") == jsonb_text.replace(b" ", b""):
        return candidate
    return _compact_by_pattern(jsonb_text)


def _compact_by_pattern(jsonb_text: bytes) -> bytes:
    return "".join(_RUN.findall(jsonb_text.decode())).encode()
