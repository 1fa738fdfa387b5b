"""Automatic1111's words, read and written the same by every dialect that speaks them; no routes."""
