"""The gate before every number: nothing that is evaluated may be known already."""
