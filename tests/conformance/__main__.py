"""`python -m tests.conformance`: Celery's integration suite against stock prefork and against the bridge.

Prints one JSON object; pytest's own output goes to standard error. Exit code 0: every test that passes on prefork
passes on the bridge, or docs/conformance.md says why not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import celery

from tests.conformance.run import run_suite
from tests.conformance.suite import DESELECTED, module_paths, read_selection
from tests.conformance.verdict import documented_exceptions, judge
from tests.conformance.worker import KINDS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
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
    selection = options.tests or (read_selection(options.select) if options.select else module_paths())
    directory = (options.dir or Path(tempfile.mkdtemp(prefix="conformance-"))).resolve()
    extra = ["-k", options.keyword] if options.keyword else []
    workers = KINDS if options.worker == "both" else (options.worker,)
    runs = [run_suite(worker, selection, directory / worker, extra) for worker in workers]
    exceptions = documented_exceptions()
    comparison, faults = judge(runs, exceptions)
    report = {
        "celery": celery.__version__,
        "directory": str(directory),
        "deselected": DESELECTED,
        "documented": exceptions,
        "workers": {run.worker: run.report() for run in runs},
        **comparison,
        "faults": faults,
    }
    print(json.dumps(report, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
