"""What a command may be limited in: the names, and the values that mean something."""

# Name → the least and the most that may be asked for. Each is a number that a limit of the kernel takes (getrlimit(2)),
# and the least leaves bash room enough to start.
BOUNDS = {
    "memory_bytes": (16 * 1024 * 1024, 2**60),
    "cpu_s": (1, 10 * 365 * 24 * 3600),
    "file_bytes": (0, 2**60),
    "open_files": (16, 2**20),
    "processes": (1, 2**22),  # the most processes that Linux has (proc_sys_kernel(5), pid_max)
}

RUN_AS_PROCESSES = 1000  # for a command of another user that names no limit of processes
