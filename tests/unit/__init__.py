"""Tests of pure code: no server, no process, no network."""
