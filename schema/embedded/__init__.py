"""The embedded PostgreSQL 16, which duro runs when no database is configured. attach.py describes the
protocol.
"""

from schema.embedded.attach import EmbeddedServer, attach, ensure_secret_key, wait_stopped
from schema.embedded.files.secret_files import read_secret_key

__all__ = ["EmbeddedServer", "attach", "ensure_secret_key", "read_secret_key", "wait_stopped"]
