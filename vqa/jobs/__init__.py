"""The job, as producers write it and workers read it."""
