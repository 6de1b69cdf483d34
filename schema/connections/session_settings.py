"""The settings that every session of ours pins, the owner's included.

A startup packet overrides what an operator has set for the server, the database, the role, or the role in the database, so our
statements and migrations mean the same everywhere. Of PostgreSQL 16's settings that a session may change, these are the ones
that something of ours depends on. Left to the operator: memory, costs, logging, `synchronous_commit` (with synchronous standbys it
is a choice between speed and safety), `default_toast_compression`, locale formats, and message language.
Settings that only a superuser may change cannot be pinned; schema/installation/preconditions.py checks the one that matters.

Functions that a producer or an analyst calls run under the caller's settings. They depend on none of these, except for
search_path, which each SECURITY DEFINER function sets for itself.
"""

from typing import Final

PINNED: Final = {
    # What a transaction is. The sequencer and every cursor rely on READ COMMITTED: each statement sees what was committed before it.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # How text is read as SQL. Patterns in CHECK constraints have backslashes, once parsed they are stored for good.
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    # How values and names are written as text: partition bounds, generated DDL, and what is exported.
    "quote_all_identifiers": "off",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    # What is created, and where. The value pg_default for default_tablespace would refuse partitioned tables.
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "check_function_bodies": "on",
    "plpgsql.extra_errors": "none",
    "row_security": "on",
    # A role that makes a role could otherwise get the right to act as it.
    "createrole_self_grant": "",
    # What ends a session. Sessions set limits of their own where they need them.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "exit_on_error": "off",
    # Notices tell nothing that we show.
    "client_min_messages": "warning",
    "restrict_nonsystem_relation_kind": "",  # it would refuse views
    # Without these no query is planned in a reasonable way.
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    "enable_sort": "on",
    "enable_partition_pruning": "on",
    "debug_parallel_query": "off",
    "from_collapse_limit": "8",
    "join_collapse_limit": "8",
    "geqo_threshold": "12",
}

NOT_EVERYWHERE: Final = frozenset({"transaction_timeout", "restrict_nonsystem_relation_kind"})
"""From PostgreSQL 17 and 16.4 on: pinned after the login, where the server knows them; in the startup message they would end it."""
