"""The HTTP gateway under load."""
