"""What has to be done from time to time, whoever is up: one file a duty, all of one shape.

A duty is atomic and idempotent, so any number of keepers may run.
"""
