"""Tests of the doors: real requests to the real application over real databases."""
