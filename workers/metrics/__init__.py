"""A worker's metrics for Prometheus. Imported only where VQA_METRICS_ADDRESS is set."""
