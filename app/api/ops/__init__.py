"""The ops dialect: is the server alive, can it serve, how much is there of everything."""
