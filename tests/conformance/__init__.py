"""Celery's own integration suite, run against an external worker: stock prefork, or the bridge.

`python -m tests.conformance` reads in travelling order: `__main__` (what to run, what to print), `suite` (Celery's
tests, from its sdist), `run` (one pytest run beside one Redis server), `plugin` (inside that pytest: the external
worker in place of Celery's embedded one), `worker_app` (inside the worker), `relay` (between the two), `verdict`
(what the outcomes mean).
"""
