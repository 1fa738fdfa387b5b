"""Tests of the page: a real browser before a real fleet."""
