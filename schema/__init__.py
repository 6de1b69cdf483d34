"""The database: schemas and roles, the log and its positions, and every query. Knows nothing of HTTP."""
