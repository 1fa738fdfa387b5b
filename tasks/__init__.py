"""What Celery workers run: `control` beside the database, `machine` on GPU machines."""
