"""Who started the processes of a run, and whether the configuration counts as many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medvlp.errors import ConfigError

_BY_HAND = ("bash", "interactive")
"""SLURM's job names of a shell, in which a command is one process like on any machine."""


@dataclass(frozen=True)
class Launch:
    """Processes that were started from outside."""

    by: str
    here: int | None
    """Processes on this machine, where the launcher says so."""

    world: int


def launched(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun, or else SLURM's srun, says that it started; None if neither did.

    >>> launched({"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"})
    Launch(by='torchrun', here=2, world=4)
    >>> launched({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "t", "SLURM_NTASKS_PER_NODE": "2"})
    Launch(by='SLURM', here=2, world=4)
    >>> launched({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"})
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        counts = [int(environment[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE")]
        return Launch("torchrun", *counts)
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in _BY_HAND:
        per_node = environment.get("SLURM_NTASKS_PER_NODE")
        here = int(per_node) if per_node else None
        return Launch("SLURM", here, int(environment["SLURM_NTASKS"]))
    return None


def check_launch(launch: Launch | None, *, devices: int, nodes: int) -> None:
    """Refuse processes that the configuration does not expect.

    Each would take itself for a run of its own and write the same folder, or wait for others that
    never come.

    Raises:
        ConfigError: The numbers differ.
    """
    if launch is None or (launch.here in (None, devices) and launch.world == devices * nodes):
        return
    here = launch.here or launch.world // nodes
    raise ConfigError(
        f"trainer.devices={devices} and trainer.nodes={nodes}, but {launch.by} started "
        f"{launch.world} processes ({here} on this machine)",
        remedy=f"set trainer.devices={here} trainer.nodes={max(1, launch.world // here)}, or start "
        "as many processes as the configuration says (SLURM: srun with --ntasks-per-node)",
    )
