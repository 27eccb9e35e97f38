"""Where things lie in the state directory: the only place that knows these names."""

import os

CODE_LASTS_S = 600  # how long the link that a start prints can be used


class Places:
    """The paths below one state directory. Knows names only: nothing is opened or created here."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.lock = os.path.join(state_dir, "lock")
        self.token = os.path.join(state_dir, "token")
        self.secrets_key = os.path.join(state_dir, "secrets_key")
        self.url = os.path.join(state_dir, "url")  # where the service listens, for the command line
        self.login_code = os.path.join(state_dir, "login_code")  # its SHA-256, until it is used
        self.node_id = os.path.join(state_dir, "node_id")
        self.not_accepted = os.path.join(state_dir, "not_accepted")
        self.reports = os.path.join(state_dir, "reports")
        self.journals = os.path.join(state_dir, "journals")
        self.controls = os.path.join(state_dir, "controls")
        self.stdins = os.path.join(state_dir, "stdins")
        self.left = os.path.join(state_dir, "left")
        self.work = os.path.join(state_dir, "work")
        self.starts = os.path.join(state_dir, "starts")
        self.spare = os.path.join(state_dir, "spare")
        self.fault = os.path.join(state_dir, "fault")  # made by a crash point of a test, so that it comes once
        self.postgres = os.path.join(state_dir, "postgres")

    def journal(self, command_id: int) -> str:
        """The command's journal: present from the hand-over until its final row is committed."""
        return f"{self.journals}/{command_id}"

    def tail(self, command_id: int) -> tuple[str, str]:
        """The two files beside the journal in which the newest of a long output lies, in turn."""
        return tail_paths(self.journal(command_id))

    def control(self, command_id: int) -> str:
        """The named pipe on which the command's worker takes stops and signals."""
        return f"{self.controls}/{command_id}"

    def stdin(self, command_id: int) -> str:
        """The named pipe that bash reads, of a command whose stdin is fed while it runs."""
        return f"{self.stdins}/{command_id}"

    def left_file(self, command_id: int) -> str:
        """The file whose lock a worker holds while it stays as the parent of what a final command left."""
        return f"{self.left}/{command_id}"

    def directory(self, command_id: int) -> str:
        """The working directory of a command that asked for none."""
        return f"{self.work}/{command_id}"

    def spare_directory(self, berth: int) -> str:
        """An empty directory that some command left as it found it, for the next that has the same berth."""
        return f"{self.spare}/directory-{berth}"

    def spare_journal(self, number: int) -> str:
        """A file that was a journal, for a command to come."""
        return f"{self.spare}/journal-{number}"


def tail_paths(journal: str) -> tuple[str, str]:
    """The files of the tail that belong to the journal at this path."""
    return f"{journal}.0", f"{journal}.1"


def command_ids(directory: str) -> list[int]:
    """The ids that have a file in ``directory`` (journals, controls, left or work), ascending.

    Temporary and foreign names are passed over. None when the directory is not there (any more).
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())
