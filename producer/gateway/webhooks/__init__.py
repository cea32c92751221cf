"""Calls to a URL of the caller when a batch or a job has ended, signed as Standard Webhooks."""
