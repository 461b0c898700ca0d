"""The hardware that training and prediction run on: what this machine has, and the Fabric that uses it."""

import atexit
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.strategies.launchers import subprocess_script
from lightning_fabric.utilities.exceptions import MisconfigurationException

from scribbleseg import ranks
from scribbleseg.plural import number_of
from scribbleseg.types import DataError
from scribbleseg.workers import end_with_parent, end_with_ranks

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What decides how large a network can be trained in reasonable time.

    Args:
        accelerator: "cpu", "cuda" or "mps".
        cores: processor cores that this process may use.
        memory_gib: the accelerator's memory, or the machine's where it is the CPU; None where nobody can tell.
        bfloat16: whether it computes in bfloat16.
    """

    accelerator: str
    cores: int
    memory_gib: float | None
    bfloat16: bool

    def __str__(self) -> str:
        processor = "no GPU" if self.accelerator == "cpu" else f"a GPU ({self.accelerator})"
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB"
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{processor}, {cores}{memory}, {'' if self.bfloat16 else 'no '}bfloat16"


def this_machine(fabric: Fabric) -> Machine:
    """What the machine has that this process runs on."""
    kind = fabric.device.type
    memory: float | None = _memory_of_the_machine()
    if kind == "cuda":
        memory = torch.cuda.get_device_properties(fabric.device).total_memory / GIB
    return Machine(kind, cores(), memory, _has_bf16(kind))


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_of_the_machine() -> float | None:
    """Memory in GiB of the machine, or of the container that this process is confined to."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found) / GIB if found else None


def make_fabric(accelerator: str = "auto") -> Fabric:
    """Where this process computes by itself: on a CPU or one GPU, of several ranks each on its own.

    Computes in bfloat16 where the hardware has it, with float32 weights; else in float32.

    Raises:
        DataError: no such accelerator.
    """
    one = ranks.started()
    devices: Any = 1
    if one and accelerator in ("auto", "cuda", "gpu") and (found := torch.cuda.device_count()):
        devices = [one.local_rank % found]  # where SLURM shows each task one GPU alone, it is the first
    return _fabric(accelerator, devices, plugins=LightningEnvironment())


def shared_fabric(accelerator: str = "auto", devices: int = 1, nodes: int = 1) -> Fabric:
    """Where all ranks compute together, each on a device: those of torchrun or srun, or ones that are started here.

    Where one of the ranks that are started here is lost, all end. Lightning kills rank 0 then before that has said a
    word, so that its observer of processes gives way to ours.

    Args:
        accelerator: the kind, as for `make_fabric`.
        devices: how many on each machine; 1 is also as many as torchrun or srun has started ranks.
        nodes: how many machines, likewise.

    Raises:
        DataError: no such accelerator, fewer devices, or other numbers than torchrun or srun has started.
    """
    one, asked = ranks.started(), (devices, nodes)
    if one:
        devices, nodes = one.local_number, one.number // one.local_number
        if asked not in ((1, 1), (devices, nodes)) or devices * nodes != one.number:
            raise DataError(
                f"expected the {one.number} processes that {one.by} has started, {devices} on this machine, got "
                f"--devices {asked[0]} --nodes {asked[1]}; leave both out"
            )
    if devices * nodes == 1:
        return make_fabric(accelerator)
    plugin: Any = None  # of several machines without either, Lightning may know of another scheduler
    if one:
        plugin = ranks.environment(one)
    elif nodes == 1:
        plugin = LightningEnvironment()
    atexit.register(ranks.leave)
    fabric = _fabric(accelerator, devices, nodes, DDPStrategy(timeout=ranks.PATIENCE), plugin)
    subprocess_script._launch_process_observer = end_with_ranks
    end_with_parent()
    fabric.launch()
    return fabric


def cores_of_rank(fabric: Fabric) -> int:
    """The number of cores for this one of the ranks of this machine, at least 1."""
    one, given = ranks.started(), os.environ.get("SLURM_CPUS_PER_TASK")
    if one and one.by == "srun" and given:
        return min(cores(), int(given))
    return max(1, cores() // getattr(fabric.strategy, "num_processes", 1))


def _fabric(accelerator: str, devices: Any, nodes: int = 1, strategy: Any = "auto", plugins: Any = None) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision = "bf16-mixed" if _has_bf16(accelerator) else "32-true"
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            plugins=plugins,
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise DataError(
            f"expected an accelerator of this machine (cpu, cuda, mps or auto) and as many devices as it has, got "
            f"{accelerator!r} and {devices} on {number_of(nodes, 'node')}: {error}"
        ) from error


def _has_bf16(accelerator: str) -> bool:
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch has none: float32 then
    return get_capabilities is not None and any(
        get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16")
    )
