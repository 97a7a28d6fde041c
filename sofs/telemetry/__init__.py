"""Seeing: trace rings, their export, and metrics. The only folder that imports OpenTelemetry.

``ring`` records the spans of a process, ``otlp`` turns what rings hold into OTLP, ``metrics``
counts for Prometheus. Services know none of them: they take a ``ports.trace.Recorder``.
"""
