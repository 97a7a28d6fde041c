"""The DNS part: the access point's zone, from what the leader and the nodes say."""
