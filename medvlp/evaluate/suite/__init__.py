"""Head-to-head: many bundles over many protocols, cell by cell."""
