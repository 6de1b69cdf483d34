"""The PostgreSQL 16 that duro brings along when no database is configured; see attach.py for the protocol."""

from schema.embedded.attach import EmbeddedServer, attach, ensure_secret_key, wait_stopped
from schema.embedded.files.secret_files import read_secret_key

__all__ = ["EmbeddedServer", "attach", "ensure_secret_key", "read_secret_key", "wait_stopped"]
