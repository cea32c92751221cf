"""Log lines: their format, what they are about, and how they are written without blocking."""
