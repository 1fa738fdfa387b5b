"""Compose, images and chart: what can be shown of them without a cluster."""
