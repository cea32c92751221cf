"""The ledger in Redis: open jobs, dead letters and batches, changed by one atomic Lua script (lua/)."""
