"""The rights of each role: declared in one place, compared with the catalog, repaired by `duro migrate`."""
