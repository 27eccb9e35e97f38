"""The words of the program that ask a service over HTTP, and what each does. They belong to ``client``."""

OF_CLIENT = {
    "run": "run a script, show what it prints, exit as it does",
    "ps": "list the commands that run or wait",
    "show": "show all that is known of a command",
    "logs": "print what a command has printed",
    "stop": "stop commands with all that they started, and wait until they have ended",
    "signal": "send the group of a command a signal",
    "rerun": "run the same again, as run does",
    "wait": "wait until a command has ended, and exit as it did",
    "top": "watch the processes of all commands",
    "token": "print this machine's token; make, list and end others",
    "completion": "print what makes a shell complete these words",
}
