"""The queue without a model: rates, latencies and computing time of jobs that cost the engine nothing."""
