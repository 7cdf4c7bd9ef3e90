"""The garbage collector of a process that holds a framework and makes thousands of small objects a second.

A full collection walks everything that was ever imported, several times a second at full load: a quarter of the
bridge's time (docs/performance.md). What exists once the process is up is put aside, and the young generation may grow
to what the messages of a full window need.
"""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 20, 50)
"""Objects, then collections of the generation below. Python's own are 700, 10 and 10."""


def settle() -> None:
    """Call once, when the modules are loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
