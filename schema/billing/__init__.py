"""The business tables of one mode, as rows and as repositories.

`rows.py` mirrors the tables, column by column. A repository (`Plans`, `Customers`, …) is bound to one tenant and one
mode: to the mode by its connection, whose role sees no other, to the tenant by its constructor. What the scanners do
across tenants goes through `books.py`, in batches, each row with its own tenant.
"""
