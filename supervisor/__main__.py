"""Where the launcher's ``execve`` leads: ``python -I -S -E supervisor/__main__.py FDS… PADDING`` becomes init.

Run by its path, without ``site``, so that init and what it forks stay lean.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    from supervisor import init

    sys.exit(init.main([int(fd) for fd in sys.argv[1:4]]))
