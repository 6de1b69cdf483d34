"""The settings that every duro session pins, the owner's included.

Session settings override those that an operator has set for the server, the database or a role, so duro's
statements and migrations mean the same everywhere. Of the settings that a session may change in PostgreSQL
16, duro depends on these. The operator chooses the others: memory, costs, logging, `synchronous_commit` (with
synchronous standbys a choice between speed and safety), `default_toast_compression`, locale formats and
message language. Settings that only a superuser may change cannot be pinned;
schema/installation/preconditions.py checks the one that matters.

Functions that a producer or an analyst calls run with the caller's settings. They depend on none of these
except search_path, which each SECURITY DEFINER function sets itself.
"""

from typing import Final

PINNED: Final = {
    # Transactions. The sequencer and all cursors rely on READ COMMITTED: a statement sees all earlier
    # commits.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # Parsing of SQL. Patterns in CHECK constraints have backslashes, and are stored as parsed.
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    # Text output of values and names: partition bounds, generated DDL and exports.
    "quote_all_identifiers": "off",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    # Creation of objects. PostgreSQL refuses partitioned tables if default_tablespace is pg_default.
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "check_function_bodies": "on",
    "plpgsql.extra_errors": "none",
    "row_security": "on",
    # A role that creates a role could otherwise gain the right to act as it.
    "createrole_self_grant": "",
    # Timeouts that end a session. Sessions set their own limits where they need them.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "exit_on_error": "off",
    # duro shows no notices.
    "client_min_messages": "warning",
    "restrict_nonsystem_relation_kind": "",  # otherwise views may be refused
    # Without these, plans are unusable.
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

VERSION_DEPENDENT: Final = frozenset({"transaction_timeout", "restrict_nonsystem_relation_kind"})
"""New in PostgreSQL 17 and 16.4. Older servers refuse them at login, so they are pinned after it if they
exist.
"""
