"""What a worker does at the end of a run that failed. Read in this order: `classifying` (which outcome it is),
`describing` (the attempt), `request` (at which of Celery's callbacks), `writing` (what Redis keeps), `step`."""
