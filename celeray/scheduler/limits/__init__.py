"""Cluster-wide limits: how many runs of a task may begin in a time, and how many may be under way at once."""
