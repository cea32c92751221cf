"""Choosing tokens on the device: parameters of each slot, penalties, draws and log probabilities."""
