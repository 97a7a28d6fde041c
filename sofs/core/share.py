"""Share modes: which opens of one file exclude each other (MS-FSA 2.1.5.1.2.2, both directions).

An open *needs* others to share what it does (READ, WRITE for write and append, DELETE) and *denies*
what its share mode leaves out. Two opens exclude each other when either needs what the other
denies. Attribute access needs nothing, and an open of attributes alone denies nothing either,
whatever its share mode says: it neither blocks nor is blocked.

``need`` and ``deny`` are masks of ``Share`` and stored with the handle, so that one open is checked
against another with two ANDs.
"""

from __future__ import annotations

from typing import Final

from sofs.core.messages import Access, Share

READ: Final = int(Share.READ)
WRITE: Final = int(Share.WRITE)
DELETE: Final = int(Share.DELETE)
_ALL: Final = int(Share.ALL)
# Plain integers: an operation on two flags of an enum costs half a microsecond.
_ACCESS_READ: Final = int(Access.READ)
_ACCESS_WRITE: Final = int(Access.WRITE | Access.APPEND)
_ACCESS_DELETE: Final = int(Access.DELETE)
ACCESS_MASK: Final = int(
    Access.READ
    | Access.WRITE
    | Access.APPEND
    | Access.DELETE
    | Access.READ_ATTRIBUTES
    | Access.WRITE_ATTRIBUTES
)
SHARE_MASK: Final = _ALL


def needs(access: int) -> int:
    """Return what an open with ``access`` needs every other open to share."""
    need = READ if access & _ACCESS_READ else 0
    if access & _ACCESS_WRITE:
        need |= WRITE
    if access & _ACCESS_DELETE:
        need |= DELETE
    return need


def denies(access: int, share: int) -> int:
    """Return what an open with ``access`` and ``share`` mode forbids every other open."""
    return _ALL & ~share if needs(access) else 0


def excludes(need: int, deny: int, other_need: int, other_deny: int) -> bool:
    """Do two opens exclude each other?"""
    return bool(need & other_deny or other_need & deny)
