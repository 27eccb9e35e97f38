"""Bashd beside two other services that run commands over HTTP, on the same machine, in the same run.

Each peer is of a pinned version, and installed into an environment of its own by the benchmark itself. All are asked
for the same, by the same load generator: ``echo hi`` in a new bash, so many times, from 16 clients, until all have
ended. What exactly is called stands in the module of each peer; Bashd is measured twice: handed in, and done when the
last final row is committed (as ``bench.throughput`` does), and with ``?wait=``, so that a client is answered at the end
of its command, as it is by sandbox-agent.

What they do for it is not the same. Bashd commits each command and its output to PostgreSQL, outlives its own crashes,
and ends what a command leaves behind. pywebexec keeps files beside its scripts and gives each command a terminal.
sandbox-agent keeps nothing of what it runs here.
"""
