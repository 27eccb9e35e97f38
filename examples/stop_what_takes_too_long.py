"""Give a script a second, then stop it together with everything it started."""

from client import Client, NotEnded

with Client() as bashd:
    handle = bashd.run("sleep 1000 & setsid sleep 1000 & wait", name="slow", labels={"team": "infra"})
    try:
        handle.wait(timeout_s=1)
    except NotEnded as error:
        print(error)
        handle.stop()
        command = handle.wait()
        print(command.status, command.swept)
    print([one.name for one in bashd.list(label="team:infra", limit=10)])
