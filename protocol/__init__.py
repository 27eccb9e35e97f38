"""What the processes of Bashd say to each other: messages, journal, places, statuses.

No process of its own. It imports the standard library alone, and of that only what is cheap: the process
that forks workers carries all of it (see ``supervisor/forker.py``).
"""
