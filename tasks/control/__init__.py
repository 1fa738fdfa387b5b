"""The control worker: it stands beside the database, needs no GPU, and sees that nothing is forgotten."""
