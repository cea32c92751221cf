"""`vqa rollout`: restarts workers one after another, with another model."""
