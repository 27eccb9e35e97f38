"""The one list of statuses and reasons; ``schema.sql`` holds the same list and a test holds the two equal.

"Where is it now" is the status, "how did it end" is the reason with exit code and signal: an exit code
exists only where there is an end.

    queued ──▶ running ──▶ succeeded | failed | stopped | lost
       └──────────────────▶ stopped | lost
"""

STATUSES = {
    "queued": "accepted and waiting for its turn",
    "running": "handed to a worker; bash may be about to start, at work, or being stopped",
    "succeeded": "bash exited with 0",
    "failed": "bash exited with another code, died of a signal, ran out of time, or could not be started",
    "stopped": "Bashd was asked to stop it and did",
    "lost": "nobody can know how it ended; the evidence says why",
}

REASONS = {
    "exit": "bash exited by itself",
    "signal": "a signal that was not ours ended bash",
    "timeout": "its time was over",
    "output_limit": "it printed more than it was allowed to",
    "memory": "the kernel ended it for want of memory",
    "cpu": "bash used more processor time than it was allowed to",
    "file_size": "bash wrote a longer file than it was allowed to",
    "spawn": "bash could not be started",
    "client": "a client asked for the stop",
    "shutdown": "Bashd was shut down",
    "not_accepted": "its row was committed after the client had been told 503",
    "worker_died": "its worker died before it could say how bash ended",
    "host_died": "the machine or container stopped under it",
    "journal_gone": "its journal was missing",
}

FINAL = frozenset({"succeeded", "failed", "stopped", "lost"})
