"""The recipe that made models/tiny-vl: drawn pictures, questions about them, the training run. Not in the wheel."""
