"""Pure rules: no I/O, no clock, no chance, no asyncio. Everything here is a function of its
arguments."""
