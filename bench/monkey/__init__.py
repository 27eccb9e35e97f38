"""The crash monkey: random scripts run while random processes of Bashd and PostgreSQL are killed and stopped.

Afterwards a checker that knows nothing of Bashd's insides compares what every script itself wrote into private files
with what Bashd recorded of it. ``python -m bench.monkey --help`` says how to start it.
"""
