"""init, supervisor and forker: the processes that every other process of Bashd descends from.

They import the standard library alone. Only the launcher (``launcher.py``, ``settings.py`` and what these
call), which ends by becoming init, may import more.
"""
