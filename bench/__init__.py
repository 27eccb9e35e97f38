"""Benchmarks and long trials of Bashd, one command each. None of it is part of what is installed."""
