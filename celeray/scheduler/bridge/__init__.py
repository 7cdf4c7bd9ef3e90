"""The Celery side of the GPU bridge: a worker pool that hands tasks to a cluster."""
