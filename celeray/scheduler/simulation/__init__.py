"""The scheduler's own placement code over a trace and a virtual clock: what would this cluster do with that load?

Reads files and computes; talks to no broker and no cluster. What decides is `celeray.scheduler.placement.place`, the
function that the bridge calls; what is measured is counted here, apart from it. docs/simulation.md has the protocol.
"""
