"""The ops dialect: is the server alive, can it serve."""
