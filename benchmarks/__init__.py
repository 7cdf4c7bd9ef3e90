"""The bridge beside stock Celery, measured in one run on one machine. How to read the figures: docs/benchmarks.md."""
