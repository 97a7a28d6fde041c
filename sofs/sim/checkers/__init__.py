"""Checkers of recorded histories and final states; each returns what is broken."""
