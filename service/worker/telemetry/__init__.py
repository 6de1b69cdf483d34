"""What a worker tells Prometheus: its own counts, and what only the database knows.

No label is ever a tenant, an endpoint, a URL or a host, so the number of series is that of the code.
"""
