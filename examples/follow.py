"""Watch a script while it runs: what it prints on either stream, and how it ends."""

from client import Client, End, Output

with Client() as bashd:
    for event in bashd.run("for i in 1 2 3; do echo $i; sleep 0.1; done; echo oh >&2").follow():
        match event:
            case Output(stream=stream, bytes=printed):
                print(stream, printed)
            case End(command):
                print(command.status)
