"""Connections to addresses that callers name, guarded against those that only this machine's network can reach."""
