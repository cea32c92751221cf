"""Qwen3-VL's forward passes over the weights of a loaded transformers model."""
