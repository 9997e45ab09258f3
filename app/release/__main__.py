"""Change which model versions run and their traffic, without losing a request.

Commands change `serve_config.yaml` and what runs together, and record who, when, what and why in
the release history; `--dry-run` prints the change only. Results go to standard output, errors to
standard error. Exit status: 0 done; 1 refused, what ran before continues; 2 wrong use; 3 a guard
broke and the promotion was rolled back; 130 and 143 ended by Ctrl-C and SIGTERM.
"""

import argparse
import asyncio
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from app.core.errors import HydraulicDiagnosticsError
from app.release.commands import run
from app.release.promotion import GuardBroken


def main(arguments: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run the command line and return its exit status, see the module's docstring."""
    options = _parser().parse_args(arguments)

    def report(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    try:
        return asyncio.run(run(options, report))
    except GuardBroken as error:
        err.write(f"error: {error}\n")
        return 3
    except HydraulicDiagnosticsError as error:
        err.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        err.write("interrupted\n")
        return 130
    except asyncio.CancelledError:
        err.write("terminated\n")
        return 143


def _parser() -> argparse.ArgumentParser:
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        help="the Serve configuration (HYDRAULIC_SERVE_CONFIG, else serve_config.yaml)",
    )
    cluster = argparse.ArgumentParser(add_help=False, parents=[config])
    cluster.add_argument(
        "--address", help="Ray's dashboard (RAY_DASHBOARD_ADDRESS, else http://127.0.0.1:8265)"
    )
    cluster.add_argument("--url", help="the service; default from http_options of the file")
    change = argparse.ArgumentParser(add_help=False, parents=[cluster])
    change.add_argument("--dry-run", action="store_true", help="print the change without making it")
    change.add_argument("--reason", default="", help="why; recorded in the release history")
    change.add_argument(
        "--actor", default=getpass.getuser(), help="who; default the user of this process"
    )
    parser = argparse.ArgumentParser(
        prog="python -m app.release", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, parents=parents)

    add("list", "registered versions, newest first")
    command = add("register", "verify a checkpoint and give it a version number")
    command.add_argument("checkpoint", type=Path, help="directory written by training")
    command.add_argument("--run", help="id of the MLflow run that trained it")
    command.add_argument("--dry-run", action="store_true", help="verify without registering")

    command = add("fetch", "write a registered version into an empty directory; for replicas")
    command.add_argument("version")
    command.add_argument("directory", type=Path)

    command = add("check", "verify a version and print its checkpoint's place; for the service")
    command.add_argument("version")

    command = add("alias", "set aliases of registered versions; for the service")
    command.add_argument("names", nargs="+", metavar="ALIAS=VERSION", help="such as champion=3")

    add("status", "the file, what runs, and the last releases", cluster)
    add("diff", "what the file would change in what runs", cluster)
    add("apply", "apply the file as it is", change)

    command = add("compare", "which of two versions is right more often, and how they differ")
    command.add_argument("a", help="version to compare with")
    command.add_argument("b", help="version that the verdict is about")
    command.add_argument("--days", type=float, help="how far back answers count; default all")

    command = add("deploy", "add a version with weight 0 and wait until it answers", change)
    command.add_argument("version")
    command.add_argument(
        "--checkpoint", help="its directory, relative to the project; default a registered version"
    )
    command.add_argument(
        "--device", help="auto, cpu, cuda or cuda:N; default that of the version with most traffic"
    )

    command = add("split", "set the traffic weights", change)
    command.add_argument("weights", nargs="+", metavar="VERSION=WEIGHT", help="such as 3=90 4=10")

    command = add("shadow", "score copies of the traffic with a version, and store results", change)
    command.add_argument("version")
    command.add_argument("--off", action="store_true", help="stop it")

    command = add(
        "promote", "raise a version's weight in steps; roll back on a broken guard", change
    )
    command.add_argument("version")
    command.add_argument("--steps", default="100", help="successive weights, such as 1,10,50,100")
    command.add_argument("--hold", default="0s", help="how long to stay on each, such as 10m")
    command.add_argument(
        "--guard", help="limits meanwhile, such as errors<0.1%%,p95<80ms,disagreement<5%%"
    )

    add("rollback", "restore the previous weights", change)

    command = add("replay", "repeat a stored diagnosis and compare its scores", config)
    command.add_argument("diagnosis_id")
    command.add_argument(
        "--readings",
        type=Path,
        help="the request, or its readings, of a diagnosis of inline readings",
    )
    command.add_argument(
        "--checkpoint", type=Path, help="the version's directory, when it is not found here"
    )

    command = add("retire", "remove a version without weight", change)
    command.add_argument("version")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout, sys.stderr))
