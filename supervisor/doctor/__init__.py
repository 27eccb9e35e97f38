"""``bashd doctor``: looks at a machine before Bashd runs there, or while it does, and says what works, what does not,
and what to do about it. It changes nothing: what it tries, it tries in directories and processes of its own.
"""
