"""The routes, one file a subject. Those that read take one snapshot and return one model."""
