"""Reading in processes that can be killed, and the ledger that keeps what was read."""
