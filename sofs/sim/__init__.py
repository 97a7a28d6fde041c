"""Runtimes without Ray, gRPC or disks, for tests and the simulator."""
