"""Benchmarks: ratios against a named rival in one run, repeated, with median and spread. `make bench` prints them."""
