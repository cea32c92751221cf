"""Runs attempts at jobs: take a lease, answer, write the outcome."""
