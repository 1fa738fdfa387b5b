"""Imagefleet's server: settings, the domain (`core`), the outward APIs (`api`) and the command line."""
