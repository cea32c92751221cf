"""A simulation of the queue: jobs that arrive, lanes, tenants, workers and their slots or cards.

Events are calls on a heap (`events.py`). simpy was considered: each of its processes is a generator, one for each of
millions of jobs, and what is needed of it is these thirty lines.
"""
