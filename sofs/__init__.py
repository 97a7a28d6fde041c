"""SOFS: a continuously available scale-out file server that lives in a Ray cluster."""

__version__ = "0.1.0"
