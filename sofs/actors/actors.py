"""The Ray shell of a part: one async actor class for every role.

Theory of operation. The constructor only starts a task in the actor's own event loop; that task
composes the part and keeps it. Nothing outside has to call the actor, so a restart by Ray alone
(``max_restarts=-1``) brings the part back, as a new process with nothing of the old one's memory.
The actor is detached and pinned to one Ray node; it holds no state that matters.

What may fail. The part cannot start (no disk, wrong root): the process stays and tries again with a
growing pause, and its proc file says why. The part ends with what only a restart mends: the process
exits, and Ray starts it again; after a few such exits the new process waits a little first, so that
a part that cannot live does not eat the machine. The run was superseded, or (in a Ray cluster of
others) ended by `sofs down`: the part is closed, and the actor asks Ray to end it for good.

``import ray`` costs most of this process's memory; everything else here is what the part needs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import ray

from sofs.actors import procfile, rundir
from sofs.actors.compose import (
    PartConfig,
    RunningPart,
    RunWatch,
    World,
    make_world,
    part_events,
    part_recorder,
    start_part,
)
from sofs.actors.process import EXIT_FATAL, report, set_up_logging, spare_the_collector
from sofs.errors import OtherRun, SofsError
from sofs.ports.platform import Platform
from sofs.rpc.credential import CREDENTIAL_FILE, read_credential
from sofs.services.leader.run import LEADER_ROLE

log = logging.getLogger("sofs.actor")

END_LOOK_S: Final = 0.25  # Between two looks whether `sofs down` was called.
START_AGAIN_S: Final = 0.5  # Doubles.
START_AGAIN_S_MAX: Final = 5.0
QUICK_CRASHES_FREE: Final = 3  # So many fatal ends are restarted without a pause.
CRASH_FORGET_S: Final = 60.0
CRASH_PAUSE_S: Final = 0.25  # Doubles with each further one.
CRASH_PAUSE_S_MAX: Final = 5.0


class Part:
    """See the module. ``config`` is a PartConfig as a dict; an empty credential is read from the
    run dir, so that it is never kept by Ray."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = PartConfig(**config)
        set_up_logging(self._config)
        self._state = "starting"
        self._problem = ""
        self._part: RunningPart | None = None
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report)
        self._main = loop.create_task(self._run())
        self._main.add_done_callback(self._ended)
        if self._config.foreign:
            self._watch = loop.create_task(self._until_down())
            self._watch.add_done_callback(self._ended)

    async def describe(self) -> dict[str, Any]:
        """Facts of this process, for the leader; answers in every state."""
        return {
            "pid": os.getpid(),
            "address": self._part.address if self._part is not None else "",
            "state": self._state,
            "detail": [f"problem={self._problem}"] if self._problem else [],
            "machine": ray.get_runtime_context().get_node_id(),
        }

    # Life
    # ------------------------------------------------------------------------------------------

    async def _must_end(self) -> bool:
        """Did `sofs down` say that this part shall end for good?"""
        config = self._config
        leader = config.role == LEADER_ROLE
        return config.foreign and await asyncio.to_thread(
            rundir.must_end, Path(config.run_dir), config.run_id, leader
        )

    async def _until_down(self) -> None:
        """End for good once `sofs down` says so; in a cluster of our own it ends the processes."""
        over = await self._must_end()
        while not over:
            await asyncio.sleep(END_LOOK_S)
            over = await self._must_end()
        self._main.cancel()
        await self._end_for_good("`sofs down` ended this run")

    async def _run(self) -> None:
        self._write_proc_file()
        if await self._must_end():
            return  # Ray started it again meanwhile; it serves no more.
        await asyncio.sleep(_crash_pause_s(self._config))
        config = self._config
        if not config.credential:
            path = Path(config.run_dir) / CREDENTIAL_FILE
            config = self._config = replace(config, credential=read_credential(path))
        world = make_world(config.credential, part_recorder(config), part_events(config))
        over = asyncio.get_running_loop().create_future()
        # The leader judges by itself, since it is there before its run's first claim.
        watch = RunWatch(config, world) if config.role != LEADER_ROLE else None
        self._part = await self._start(config, world, watch, over)
        if self._part is None:
            return
        spare_the_collector()
        self._state = "serving"
        self._write_proc_file()
        await self._end_for_good(await (over if watch is None else watch.wait()))

    async def _start(
        self,
        config: PartConfig,
        world: World,
        watch: RunWatch | None,
        over: asyncio.Future[str],
    ) -> RunningPart | None:
        """Compose the part; while that fails, say why and try again. None: the run is over."""
        pause = START_AGAIN_S
        platform: Platform | None = None
        if config.role == LEADER_ROLE:
            from sofs.actors.platform import RayPlatform

            platform = RayPlatform(config)
        while True:
            try:
                reason = await watch.over() if watch is not None else ""
                if reason:
                    await self._end_for_good(reason)
                    return None
                return await start_part(
                    config,
                    self._die,
                    world=world,
                    platform=platform,
                    on_over=lambda reason: None if over.done() else over.set_result(reason),
                )
            except SofsError as error:
                log.error("%s cannot start: %s", config.name, error)
                self._problem = str(error)
                self._write_proc_file()
            await asyncio.sleep(pause)
            pause = min(2 * pause, START_AGAIN_S_MAX)

    def _write_proc_file(self) -> None:
        address = self._part.address if self._part is not None else ""
        config = self._config
        facts = procfile.own_facts(config.name, config.role, address, config.run_id)
        if not address:
            facts = replace(facts, problem=self._problem)
        procfile.write(config.run_dir, facts)

    # Ends
    # ------------------------------------------------------------------------------------------

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self._die(error)

    def _die(self, error: BaseException) -> None:
        """End this process now; Ray starts another."""
        log.critical("fatal: %r", error, exc_info=error)
        logging.shutdown()
        _count_crash(self._config)
        os._exit(EXIT_FATAL)

    async def _end_for_good(self, reason: str) -> None:
        """This run is over: stop serving and ask Ray never to start this part again. If Ray does
        not answer, the process stays and does nothing."""
        log.error("%s ends for good: %s", self._config.name, reason)
        self._state, self._problem = "over", str(OtherRun(reason))
        part, self._part = self._part, None
        self._write_proc_file()
        if part is not None:
            await part.close()
        own = ray.get_runtime_context().current_actor
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: ray.kill(own, no_restart=True)
        )


PartActor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Part)


def actor_options(config: PartConfig, name: str, **placement: Any) -> dict[str, Any]:
    """Options of a part's actor: named, detached, found again by whoever comes next."""
    return {
        "name": name,
        "namespace": config.namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        **placement,
    }


def actor_argument(config: PartConfig) -> dict[str, Any]:
    """The constructor's argument, without the credential."""
    return asdict(replace(config, credential=""))


# Crashes in a row -------------------------------------------------------------------------------


def _crash_file(config: PartConfig) -> Path:
    return procfile.proc_folder(config.run_dir) / f".{config.name}.crashes"


def _crashes(config: PartConfig) -> tuple[int, float]:
    """How often this part ended fatally within a minute each, and when it last did (seconds since
    boot)."""
    try:
        fields = json.loads(_crash_file(config).read_text())
        count, at = int(fields["count"]), float(fields["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0
    return (count, at) if 0 <= time.monotonic() - at < CRASH_FORGET_S else (0, at)


def _count_crash(config: PartConfig) -> None:
    count, _ = _crashes(config)
    _crash_file(config).write_text(json.dumps({"count": count + 1, "at": time.monotonic()}))


def _crash_pause_s(config: PartConfig) -> float:
    count, _ = _crashes(config)
    if count <= QUICK_CRASHES_FREE:
        return 0.0
    return float(min(CRASH_PAUSE_S * 2 ** (count - QUICK_CRASHES_FREE), CRASH_PAUSE_S_MAX))
