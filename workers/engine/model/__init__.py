"""Loading a transformers model: its memory footprint, and quantization."""
