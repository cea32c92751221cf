"""An engine without a model, for tests and load tests of the queue."""
