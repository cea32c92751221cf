"""Continuous batching: prompts join and leave between decode steps. `scheduler` decides, `model_runner` computes."""
