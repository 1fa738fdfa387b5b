"""The catalog dialect: seed 003, what machines and other programs ask to learn where models come from."""
