"""Runs the gateway's processes: the command, supervision, uvicorn, and HTTP on one connection."""
