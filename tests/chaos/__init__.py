"""Chaos: a whole fleet under load whose parts are killed, paused and restarted at random, and the proof afterwards."""
