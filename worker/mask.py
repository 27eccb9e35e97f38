"""Keeping secrets out of what is recorded: the one exception to every byte being as the script wrote it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = b"***"
MIN_LINE_BYTES = 8  # of a secret of several lines, a line that is looked for by itself


def patterns(secrets: "list[str]") -> "list[bytes]":
    """What is looked for: each secret, and the longer lines of those that have several, as a script prints them."""
    found = set()
    for one in secrets:
        whole = one.encode()
        found.add(whole)
        found.update(line for line in whole.splitlines() if len(line) >= MIN_LINE_BYTES)
    return sorted(found)


class Mask:
    """One stream's. Takes the output in pieces and gives it back, later where a secret may have begun.

    What could be the beginning of a secret is held back until more comes, or the end: so it is found wherever the
    pieces are cut. Secrets that overlap become one mask. What is held is shorter than the longest of them.
    """

    def __init__(self, patterns: "list[bytes]") -> None:
        self._patterns = patterns
        self._longest = max(map(len, patterns), default=0)
        self._held = b""
        self._covered = 0  # so many bytes of what is held belong to a mask that was given already
        self.count = 0  # how often a secret was replaced

    def take(self, piece: bytes) -> bytes:
        """What may be recorded of all that was taken, secrets masked."""
        text = self._held + piece
        return self._give(text, self._open_at(text))

    def rest(self) -> bytes:
        """What is still held back, now that nothing comes any more."""
        return self._give(self._held, len(self._held))

    def _give(self, text: bytes, open_at: int) -> bytes:
        given = []
        covered = self._covered
        for start, end in _occurrences(text, self._patterns):
            if start >= open_at:
                break
            if start >= covered:
                given += [text[covered:start], MASK]
                self.count += 1
            covered = max(covered, end)
        given.append(text[covered:open_at])
        self._held = text[open_at:]
        self._covered = max(0, covered - open_at)
        return b"".join(given)

    def _open_at(self, text: bytes) -> int:
        """Where the first secret begins that may go on behind the end of ``text``; its length when none does."""
        least = len(text)
        for one in self._patterns:
            start = text.find(one[:1], max(0, len(text) - len(one) + 1), least)
            while start >= 0 and not one.startswith(text[start:]):
                start = text.find(one[:1], start + 1, least)
            if start >= 0:
                least = start
        return least


def _occurrences(text: bytes, patterns: "list[bytes]") -> "Iterator[tuple[int, int]]":
    """Start and end of all there are, in the order of their starts, also of those that overlap."""
    following = [(text.find(one), one) for one in patterns]
    following = [(start, one) for start, one in following if start >= 0]
    while following:
        start, one = min(following)
        yield start, start + len(one)
        following.remove((start, one))
        again = text.find(one, start + 1)
        if again >= 0:
            following.append((again, one))
