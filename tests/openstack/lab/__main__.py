"""`python -m tests.openstack.lab`: see the package's own text."""

from __future__ import annotations

import argparse
import os
import sys

from tests.openstack.lab import layout
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.processes import LabError


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.openstack.lab")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("start", help="start what does not run, and wait until it is ready")
    verbs.add_parser("stop", help="end everything; what is stored stays")
    verbs.add_parser("status", help="what runs")
    verbs.add_parser("wipe", help="end everything and remove what is stored")
    restart = verbs.add_parser("restart", help="end services and start them again")
    restart.add_argument("names", nargs="+", metavar="NAME")
    run = verbs.add_parser("exec", help="run a command where the lab's mounts are seen")
    run.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main() -> int:
    """Do what the command line says and return the exit status."""
    chosen = arguments()
    cloud = Cloud(layout.default())
    try:
        if chosen.verb == "start":
            cloud.start()
        elif chosen.verb == "stop":
            cloud.stop()
        elif chosen.verb == "wipe":
            cloud.wipe()
        elif chosen.verb == "status":
            return cloud.print_status()
        elif chosen.verb == "restart":
            cloud.restart(chosen.names)
        else:
            command = cloud.namespaces.command(chosen.command, cwd=layout.PROJECT)
            environment = cloud.lab.environment() | cloud.lab.credentials()
            os.execvpe(command[0], command, environment)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
