"""The loaded model behind `submit(prompt) -> future`: `base` has the protocol, `factory` chooses an engine."""
