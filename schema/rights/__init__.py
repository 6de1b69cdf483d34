"""What each role may do in this database: declared in one place, compared with the catalog, repaired by `duro migrate`."""
