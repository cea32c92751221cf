"""The engines, called directly and through Celery: `python -m bench.engine`. docs/engine-log.md has the changes."""
