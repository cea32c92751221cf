"""What runs the queue beside the package itself: configuration of other programs, and the scripts that make it."""
