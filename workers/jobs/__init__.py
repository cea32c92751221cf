"""One attempt at a job: lease, answer, outcome."""
