"""The gallery dialect: seed 004."""
