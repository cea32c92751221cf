"""How models/tiny-vl was made: drawn images, questions about them and the training run. Not in the wheel."""
