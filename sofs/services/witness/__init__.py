"""The witness: watches the other nodes and tells registered clients at once to move."""
