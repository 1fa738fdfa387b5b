"""Seed 002: Automatic1111's orders, answered at once with the UUID of a job."""
