"""``bashd``: looks at the first word, and hands over to ``client``, which must begin at once, or to the launcher."""

import signal

# Before anything else is imported, for the launcher: see there.
_TOLD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)

import sys

from supervisor.words import OF_CLIENT


def main() -> int:
    """Entry point of the program; returns the exit status, or never returns because it has become init."""
    if sys.argv[1:2] and sys.argv[1] in OF_CLIENT:
        # These words end like any other program.
        signal.pthread_sigmask(signal.SIG_SETMASK, _blocked_before)
        from client.cli import main as words

        return words.main(sys.argv[1:])
    from supervisor import launcher

    return launcher.main()


if __name__ == "__main__":
    sys.exit(main())
