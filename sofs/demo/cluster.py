"""The cluster under the demo: on a local Ray if there is one to use, else plain processes.

Both come from ``sofs.testing`` and have the same face: named parts to kill, freeze and thaw, and
URLs to connect to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, cast

import sofs.testing
from sofs.errors import NotSupported

RAY_HEAD: Final = "Ray head"


class PartConfigured(Protocol):
    @property
    def role(self) -> str: ...

    @property
    def address(self) -> str: ...


class NamedPart(Protocol):
    @property
    def pid(self) -> int: ...

    @property
    def config(self) -> PartConfigured: ...


class Ray(Protocol):
    """The Ray below a cluster."""

    def kill_head(self) -> None: ...

    def start_head(self) -> None: ...


class Cluster(Protocol):
    """What the demo asks of a cluster. ``ray``: None when nobody but SOFS is below it."""

    @property
    def ray(self) -> Ray | None: ...

    @property
    def credential(self) -> str: ...

    @property
    def run_dir(self) -> Path: ...

    @property
    def parts(self) -> Mapping[str, NamedPart]: ...

    def __enter__(self) -> Cluster: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def wait_ready(self, names: list[str] | None = None) -> None: ...

    def kill(self, name: str) -> None: ...

    def freeze(self, name: str) -> None: ...

    def thaw(self, name: str) -> None: ...

    def url_from(self, first: str) -> str: ...

    @property
    def dns_url(self) -> str: ...

    def node_at(self, address: str) -> str: ...


def ray_is_there() -> bool:
    return hasattr(sofs.testing, "RayCluster")


def make_cluster(root: Path, *, nodes: int, ray: bool) -> Cluster:
    """Return a cluster that starts when it is entered."""
    if not ray:
        return cast(Cluster, sofs.testing.LocalCluster(root, nodes=nodes, dns=True))
    kind: Any = getattr(sofs.testing, "RayCluster", None)
    if kind is None:
        raise NotSupported("there is no Ray cluster in this installation; use --no-ray")
    return cast(Cluster, kind(root, nodes=nodes))


def parts_of(cluster: Cluster, role: str) -> list[str]:
    """Return the names of the parts of a role."""
    return sorted(name for name, part in cluster.parts.items() if part.config.role == role)
