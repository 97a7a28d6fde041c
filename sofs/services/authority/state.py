"""The state of a volume's authority: every rule, over the tables of ``schema.py``.

``AuthorityState`` is the end of the chain that ``tables.py`` describes. Its methods are called
inside a transaction of the database; they return an answer, raise an error (nothing happened), or
raise ``Blocked`` (clear what it names, then call again from the start).

Mutations of clients are made exactly once by their caller: ``recall_result`` before the rule,
``store_result`` after it, all in one transaction. The rules themselves look at no op id.
"""

from __future__ import annotations

from sofs.services.authority.checks import Checks
from sofs.services.authority.schema import SCHEMA, SCHEMA_VERSION

__all__ = ["SCHEMA", "SCHEMA_VERSION", "AuthorityState"]


class AuthorityState(Checks):
    """All rules of one volume; no state outside its database."""
