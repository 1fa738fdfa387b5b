"""The simple dialect: seed 001."""
