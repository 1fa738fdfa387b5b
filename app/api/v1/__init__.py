"""The v1 dialect: our own API, and the routes of seed 000."""
