"""Tests over real services: PostgreSQL, Redis or Valkey, and whole fleets of processes."""
