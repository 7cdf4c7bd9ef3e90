"""The routes, one file a subject. All read-only; each reads one snapshot and returns one model."""
