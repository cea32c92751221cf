"""The recipe that made models/tiny-vl: drawn images, questions about them, the training run. Not in the wheel."""
