"""Chat requests: from a body to a job, its answer or stream, and its state."""
