"""The Celery app. All that celeray adds to it is the one call of `install`.

Celery itself reads the broker and the result backend from `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`.
"""

from __future__ import annotations

from celery import Celery

import celeray

LOCAL_REDIS = "redis://127.0.0.1:6379/0"

app = Celery(
    "auteur",
    broker=LOCAL_REDIS,
    backend=LOCAL_REDIS,
    include=[
        "examples.auteur.generation",
        "examples.auteur.processing",
        "examples.auteur.analysis",
        "examples.auteur.thumbnails",
        "examples.auteur.storage",
    ],
)
app.conf.result_extended = True
celeray.install(app)
