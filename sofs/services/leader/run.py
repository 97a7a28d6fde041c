"""Runs: which start of the cluster may act on a root (R13).

Every ``sofs up`` is a *run* with a fresh id. Its leader claims the role ``leader`` on the cluster's
root, and the highest claim says which run the root belongs to. ``sofs up`` looks at the claims
before it starts anything, and tells its leader which epoch it saw (``base_epoch``): a claim of
another run above that epoch was made after our start was decided, so that run has superseded ours,
and ours exits and never claims again. A claim of another run at or below it may be taken over, when
its leader does not answer, or when the operator said so.

Parts other than the leader stand under the same rule through ``superseded``: two runs that serve
one root do no harm (every log is fenced by its own claims), but would take the volume from each
other for ever.
"""

from __future__ import annotations

from typing import Final

from sofs.ports.log import Claim, FencedStore

LEADER_ROLE: Final = "leader"
ANSWER_MS_MAX: Final = 800  # What a leader gets to say that it is there.


async def superseded(fenced: FencedStore, run_id: bytes) -> Claim | None:
    """Return the claim of the run that took the root from run ``run_id``, whose leader has claimed
    before; None while the root is ours (or nobody's)."""
    owner = await fenced.highest_claim(LEADER_ROLE)
    return owner if owner is not None and owner.run_id != run_id else None
