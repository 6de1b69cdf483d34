"""The business tables of one mode, as rows and repositories.

`rows.py` mirrors the tables, column by column. A repository (`Plans`, `Customers`, …) is bound to one mode by its
connection, whose role has no rights in the other, and to one tenant by its constructor. Scanners work across tenants
through `billing_cases.py`, in batches in which each row names its tenant.
"""
