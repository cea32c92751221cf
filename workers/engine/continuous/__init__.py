"""The continuous engine: prompts join and leave between decode steps. `scheduler` decides, `runner` computes."""
