"""Traces of jobs across processes (OpenTelemetry): what producers and workers both need.

Nothing here imports OpenTelemetry before a process traces: it is an extra, and takes 0.1 s to import.
"""
