"""Choosing tokens on the device: parameters and tokens of each slot, and draws."""
