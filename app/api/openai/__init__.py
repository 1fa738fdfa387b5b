"""The OpenAI dialect: what clients of OpenAI's images API expect, answered by the fleet."""
