"""DNS as it travels: packets, sockets, and a small resolver. The only place that knows dnspython.

The sockets and the resolver are loaded when they are used: a client that names its nodes by
addresses never pays for them.
"""
