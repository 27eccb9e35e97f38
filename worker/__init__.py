"""The worker: one process for one command. It owns bash, its group and everything that came from it.

Forked by ``supervisor/forker.py``; needs nobody above it: what it does is in the journal, what it is told
comes through a named pipe, and it ends its command truthfully whoever else has died meanwhile.
"""
