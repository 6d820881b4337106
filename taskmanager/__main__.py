"""The command line: ``python -m taskmanager``."""

from __future__ import annotations

import argparse
import sys

from taskmanager.demo._main import add_arguments, tell


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a check failed, 2 it could not start."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m taskmanager", description="Run many tasks and save each result once."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "forecast an ensemble, kill the run half way, complete it, check it and draw a map"
    demo = commands.add_parser("demo", help=text, description=f"{text.capitalize()}.")
    add_arguments(demo)
    demo.set_defaults(run=tell)
    return parser


if __name__ == "__main__":
    sys.exit(main())
