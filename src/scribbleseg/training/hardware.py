"""The hardware that training and prediction run on: what this machine has, and the Fabric that uses it."""

import atexit
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers import subprocess_script
from lightning_fabric.utilities.exceptions import MisconfigurationException

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


def make_fabric(accelerator: str = "auto", devices: int = 1, nodes: int = 1) -> Fabric:
    """Where training and prediction run: the same code on a CPU, one GPU, or many on several nodes.

    Computes in bfloat16 where the hardware has it, with float32 weights; else in float32.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = "ddp" if devices * nodes > 1 else "auto"
    if strategy == "ddp":
        atexit.register(_leave)
    precision = "bf16-mixed" if _has_bf16(accelerator) else "32-true"
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise DataError(
            f"expected an accelerator of this machine (cpu, cuda, mps or auto) and as many devices as it has, got "
            f"{accelerator!r} and {devices} on {nodes} node(s): {error}"
        ) from error


def launch(fabric: Fabric) -> None:
    """Start the other ranks, if there are any, as `Fabric.launch` does; where one of them is lost, all end.

    Lightning kills rank 0 then before that has said a word, so that its observer of processes gives way to ours.
    """
    subprocess_script._launch_process_observer = end_with_ranks
    end_with_parent()
    fabric.launch()


def _leave() -> None:
    """Ends the connections to other processes, whose threads would else abort a process that ends by an error."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _has_bf16(accelerator: str) -> bool:
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch has none: float32 then
    return get_capabilities is not None and any(
        get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16")
    )
