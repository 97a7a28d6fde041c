"""Exhaustive models of the fencing protocols: `python -m tests.models`, docs/MODELS.md."""
