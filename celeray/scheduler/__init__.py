"""The brain: routing, placement, the ledger and the Celery side of the bridge. Imports no Ray and no NVML."""
