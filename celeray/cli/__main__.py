"""`python -m celeray.cli`: how `celeray up` starts its parts, whatever PATH is."""

from __future__ import annotations

from celeray.cli import main

main(prog_name="celeray")
