"""`python -m benchmarks [NAME...]`: run benchmarks (all by default), print a table of each, and keep it as JSON."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from benchmarks.measuring import CommandFailed
from benchmarks.results import machine, report, table, write
from benchmarks.suite import BENCHMARKS, Size


def main(arguments: list[str] | None = None) -> int:
    """0: all were run. 1: a command that is measured failed. 2: wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)} [default: all]")
    parser.add_argument("--rows", type=int, default=Size.rows, help="API logs of `path` and `verify` [default: %(default)s]")
    parser.add_argument("--users", type=int, default=Size.users, help="users of the example data [default: %(default)s]")
    parser.add_argument("--repeat", type=int, default=Size.repetitions, help="repetitions [default: %(default)s]")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    size = Size(rows=given.rows, users=given.users, repetitions=given.repeat)
    signal.signal(signal.SIGTERM, _stop)
    try:
        for name in given.names or BENCHMARKS:
            _run(name, size)
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    return 0


def _run(name: str, size: Size) -> None:
    """Only the figures of the usual size are kept: they can be compared with those of other machines and days."""
    on = machine()
    measured = BENCHMARKS[name](size, lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True))
    content = report(name, on, measured)
    print(table(content), end="\n\n", flush=True)
    if size == Size():
        print(f"{name}: written to {write(content)}", file=sys.stderr)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
