"""The metrics of a worker: its own counters, and facts that only the database knows.

No label is ever a tenant, an endpoint, a URL or a host, so the number of series is fixed by the code.
"""
