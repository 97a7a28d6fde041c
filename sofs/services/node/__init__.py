"""The Node: a process's file server, and the direct path below it.

Start at ``part.NodePart``. It owns the listener and one life at a time (``life.Node``); a life is
composed of: ``link`` (the standing stream to the volume's authority), ``commits`` (what was written
goes there in batches), ``file_table`` and ``open_file`` (tokens, maps, the queue of each file),
``write_path`` and ``read_path`` (direct I/O), ``metadata`` (what goes on to the authority),
``inbound`` (what the authority asks), ``session`` (one client's stream).
"""
