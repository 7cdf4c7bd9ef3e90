"""`python -m tests.conformance`: kombu's tests of its Redis transport against ours, then Celery's integration suite
against stock prefork and against the bridge.

Prints one JSON object; pytest's own output goes to standard error. Exit code 0: every test that passes on the stock
part passes on ours, or docs/conformance.md says why not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import celery

from tests.conformance import kombu_suite
from tests.conformance.kombu_plugin import TRANSPORTS
from tests.conformance.run import run_suite
from tests.conformance.suite import DESELECTED, module_paths, read_selection
from tests.conformance.verdict import documented_exceptions, judge
from tests.conformance.worker import KINDS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--suite", choices=("celery", "kombu", "all"), default="all")
    parser.add_argument("--worker", choices=(*KINDS, "both"), default="both")
    parser.add_argument(
        "--select", type=Path, help="a file of node ids, one a line (default: the whole suite)"
    )
    parser.add_argument("-k", dest="keyword", help="passed to pytest")
    parser.add_argument(
        "--dir", type=Path, help="keep logs and outcomes here (default: a temporary folder, kept)"
    )
    parser.add_argument(
        "tests", nargs="*", help="modules or node ids of t/integration (default: the whole suite)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    directory = (options.dir or Path(tempfile.mkdtemp(prefix="conformance-"))).resolve()
    report: dict[str, Any] = {"directory": str(directory)}
    faults: list[str] = []
    suites = {"kombu": run_kombu, "celery": run_celery}
    # Which tests are named says whose suite it is: only Celery's is chosen by them.
    wanted = {"celery"} if options.tests or options.select else {options.suite}
    for name, run in suites.items():
        if wanted & {name, "all"}:
            found, wrong = run(options, directory)
            report |= found
            faults += wrong
    print(json.dumps({**report, "faults": faults}, indent=2))
    return 1 if faults else 0


def run_kombu(options: argparse.Namespace, directory: Path) -> tuple[dict[str, Any], list[str]]:
    extra = ["-k", options.keyword] if options.keyword else []
    runs = [kombu_suite.run_kombu_suite(name, directory / "kombu", extra) for name in TRANSPORTS]
    found, faults = kombu_suite.compare(runs, documented_exceptions(kombu_suite.HEADING))
    return {"kombu": found}, faults


def run_celery(options: argparse.Namespace, directory: Path) -> tuple[dict[str, Any], list[str]]:
    selection = options.tests or (read_selection(options.select) if options.select else module_paths())
    extra = ["-k", options.keyword] if options.keyword else []
    workers = KINDS if options.worker == "both" else (options.worker,)
    runs = [run_suite(worker, selection, directory / worker, extra) for worker in workers]
    exceptions = documented_exceptions()
    comparison, faults = judge(runs, exceptions)
    found = {
        "celery": celery.__version__,
        "deselected": DESELECTED,
        "documented": exceptions,
        "workers": {run.worker: run.report() for run in runs},
        **comparison,
    }
    return found, faults


if __name__ == "__main__":
    sys.exit(main())
