"""Async services composed of core rules over ports. No Ray, no gRPC, no fsspec, no clock of its
own."""
