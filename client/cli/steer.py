"""``stop`` and ``signal``."""

from __future__ import annotations

import argparse
import json

from client.cli.service import RUNNING_RETRY_FOR_S, client


def stop(arguments: argparse.Namespace) -> int:
    with client(retry_for_s=RUNNING_RETRY_FOR_S if len(arguments.ids) > 1 else 30.0) as service:
        handles = [service.get(one) for one in arguments.ids]
        for handle in handles:
            handle.stop(arguments.signal, arguments.grace)
        commands = [handle.wait() for handle in handles]
    if arguments.json:
        print(json.dumps([one.row for one in commands]))
    return 0


def signal(arguments: argparse.Namespace) -> int:
    number = int(arguments.signal) if arguments.signal.isdecimal() else arguments.signal
    with client() as service:
        command = service.get(arguments.id).signal(number)
    if arguments.json:
        print(json.dumps(command.row))
    return 0
