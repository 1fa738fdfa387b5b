"""Imagefleet's tests: one folder for each level, and what they share."""
