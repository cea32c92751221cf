"""The queue's metrics for Prometheus: read from Redis whenever they are asked for."""
