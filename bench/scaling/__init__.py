"""What one Redis carries, and how many cards that is: `python -m bench.scaling`. docs/scaling.md has the figures."""
