"""Provisioning, against real sockets, real processes and an origin that misbehaves on demand."""
