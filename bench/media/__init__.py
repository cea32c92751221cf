"""Images: what decoding costs a worker, and shrinking a producer."""
