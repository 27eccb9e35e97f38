"""Run a script, wait for its end, and look at what became of it."""

from client import Client

with Client() as bashd:
    handle = bashd.run('echo "hello $1"; exit 3', args=["world"], timeout_s=60)
    command = handle.wait()
    print(command.status, command.exit_code)
    print(handle.output().decode(), end="")
