"""Brings models to a machine, proves them by hash, and leaves receipts. Runs alone: ``python -m provisioning``.

It imports nothing else of the project. Other rooms read what it leaves on disk through `provisioning.receipts` and
`provisioning.status`, which need the standard library only.
"""
