"""A small made-up trace for `scripts/bench --placement` without a real one, by `make.py`. No figure of it counts."""
