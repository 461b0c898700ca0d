"""Ranks: the processes of one job, started by torchrun or by SLURM's srun, that share out the cases of a verb.

Without several of them nothing heavy is imported here.
"""

import atexit
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other, who may have large shares (ours). One that is lost is noticed by other means."""

JOINING = timedelta(minutes=30)
"""How long ranks wait for each other to begin; ours."""

ATTEMPT = 3.0
"""Seconds that an attempt to connect takes at most; ours."""

SOON = 15.0
"""Seconds after which a rank says that it waits; ours."""

SHELLS = ("bash", "interactive")
"""Names of SLURM jobs that are people's shells, in which a command is a single process."""


class Started(NamedTuple):
    """How this process was started, as one of several ranks.

    Args:
        by: the program that has started it.
        rank: its number, from 0.
        number: how many ranks there are, 2 or more.
        local_rank: its number among the ranks of this machine.
        local_number: how many these are.
    """

    by: Literal["torchrun", "srun"]
    rank: int
    number: int
    local_rank: int
    local_number: int


def started() -> Started | None:
    """What torchrun or srun has told this process; None where it is the only one, or Lightning starts the others."""
    said = os.environ
    if "TORCHELASTIC_RUN_ID" in said:
        rank, number = int(said["RANK"]), int(said["WORLD_SIZE"])
        found = Started("torchrun", rank, number, int(said["LOCAL_RANK"]), int(said["LOCAL_WORLD_SIZE"]))
    elif "SLURM_STEP_ID" in said and said.get("SLURM_JOB_NAME") not in SHELLS:  # which a script of sbatch has not
        rank, number, nodes = (int(said[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "NNODES"))
        found = Started("srun", rank, number, int(said["SLURM_LOCALID"]), number // nodes)
    else:
        return None
    return found if found.number > 1 else None


def leads() -> bool:
    """Whether this process is the one that writes what is written once: the only one, or rank 0."""
    one = started()
    return one.rank == 0 if one else os.environ.get("LOCAL_RANK", "0") == "0"


def join() -> None:
    """Meet the other ranks, if there are any, so that they can share and agree; all have to call it, first."""
    one = started()
    if one is None or _met:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost rank is one sentence, not pages of frames
    import torch.distributed as dist

    from scribbleseg.workers import end_with_parent

    end_with_parent()
    atexit.register(leave)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _met.append(dist.PrefixStore(f"scribbleseg {attempt}", _store(one)))
    _wait_for_all(one, "begun")


def refuse(verb: str) -> None:
    """Raises DataError where there are several ranks, for a verb whose work they do not share out."""
    from scribbleseg.types import DataError

    if one := started():
        raise DataError(f"{verb}: expected a single process, got {one.number} by {one.by}; give the command without it")


def environment(one: Started) -> "ClusterEnvironment":
    """What Lightning calls what has started the ranks."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if one.by == "torchrun":
        return TorchElasticEnvironment()
    os.environ["SLURM_NTASKS_PER_NODE"] = str(one.local_number)  # which it asks for
    return SLURMEnvironment(auto_requeue=False)


def leave() -> None:
    """End the connections to other processes, whose threads would else abort a process that ends by an error."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def may_say_why() -> bool:
    """Whether this process is the one that says why the job ends: the first rank that asks; all others are silent.

    Where rank 0, which keeps count of that, is gone itself, it is rank 1.
    """
    one = started()
    if not _met or one is None:
        return leads()
    try:
        return _met[0].add("said", 1) == 1
    except RuntimeError:
        return one.rank <= 1


def on_leader(work: Callable[[], T], fabric: "Fabric | None" = None) -> T:
    """Do something on rank 0 while the others wait, and give what it returns on all of them.

    Args:
        work: gives something small that can be pickled.
        fabric: launched, of ranks that compute together; None is those that have met here, if any.

    Raises:
        DataError: where it was raised on rank 0; all ranks raise it then.
    """
    from scribbleseg.types import DataError

    one = _among() if fabric is None else None
    if one is not None:
        here, broadcast = one.rank == 0, lambda mine: _gathered(one, mine)[0]
    elif fabric is not None and fabric.world_size > 1:
        here, broadcast = fabric.is_global_zero, fabric.broadcast
    else:
        return work()
    found, refused = None, None
    if here:
        try:
            found = work()
        except DataError as error:
            refused = str(error)
    found, refused = broadcast((found, refused))
    if refused is not None:
        raise DataError(refused)
    return found


def share(items: Sequence[T], work: Callable[[T], R], description: str) -> list[R]:
    """Do some work for each of many items, every rank its share of them, with one progress bar.

    Args:
        items: the same on all ranks; each goes to one of them, by turns.
        work: gives something small that can be pickled.
        description: text beside the bar.

    Returns:
        What the work gave for each item, in the order of the items, on all ranks.

    Raises:
        DataError: where one rank raised it; all raise it then, after the item that they are at.
    """
    from scribbleseg.progress import track
    from scribbleseg.types import DataError

    one = _among()
    if one is None:
        return [work(item) for item in track(items, description)]
    found, refused = [], None
    _shares.append(description)
    refusals = f"refusals {len(_shares)}"
    for item in track(items[one.rank :: one.number], description):
        if _met[0].add(refusals, 0):
            break
        try:
            found.append(work(item))
        except DataError as error:
            refused = str(error)
            _met[0].add(refusals, 1)
            break
    everyone = _gathered(one, (found, refused))
    for _, why in everyone:
        if why is not None:
            raise DataError(why)
    return [everyone[n % one.number][0][n // one.number] for n in range(len(items))]


def settle() -> None:
    """Let rank 0 print and the others be silent; it tells their warnings, too."""
    heard = _Heard()
    if not leads():
        import rich

        rich.get_console().quiet = True  # which progress bars are printed on
        logging.basicConfig(handlers=[heard])
    elif started():
        logging.getLogger().addHandler(heard)


_met: list[Any] = []
"""The store in which ranks agree, once they have met."""

_shares: list[str] = []
"""What has been shared out so far."""

_heard: list[str] = []
"""The warnings of this process since they were last gathered."""


class _Heard(logging.Handler):
    """Keeps warnings, which `_gathered` takes to rank 0."""

    def emit(self, record: logging.LogRecord) -> None:
        _heard.append(record.getMessage())


def _among() -> Started | None:
    """What this process is among the ranks that have met, with a connection to all; None where none have met."""
    one = started() if _met else None
    if one is None:
        return None
    import torch.distributed as dist

    if not dist.is_initialized():
        _wait_for_all(one, "connect")
        dist.init_process_group("gloo", rank=one.rank, world_size=one.number, timeout=PATIENCE)
    return one


def _store(one: Started) -> Any:
    """A connection to where all ranks meet. srun's ranks have to find rank 0, by attempts that a signal can end."""
    import torch.distributed as dist

    if one.by == "torchrun":  # which is there before its ranks
        return next(dist.rendezvous("env://", one.rank, one.number))[0]
    slurm = environment(one)
    os.environ.update(MASTER_ADDR=slurm.main_address, MASTER_PORT=str(slurm.main_port))
    here, first = (slurm.main_address, slurm.main_port), one.rank == 0
    waiting = _Waiting(one)
    while not first and not _answers(*here):
        waiting.tell(1)
    return dist.TCPStore(*here, None, first, PATIENCE, wait_for_workers=False, multi_tenant=True)


def _answers(address: str, port: int) -> bool:
    """Whether somebody listens there; torch's own attempts print pages where nobody does, and heed no signal."""
    try:
        socket.create_connection((address, port), timeout=ATTEMPT).close()
    except OSError:
        time.sleep(0.2)
        return False
    return True


def _wait_for_all(one: Started, what: str) -> None:
    """Wait until all ranks have come here, in a way that a signal can end, which torch's own is not."""
    _met[0].add(what, 1)
    waiting = _Waiting(one)
    while missing := one.number - _met[0].add(what, 0):
        waiting.tell(missing)
        time.sleep(0.05)


class _Waiting:
    """Says once what is waited for, and ends the wait where it takes too long."""

    def __init__(self, one: Started) -> None:
        self.one, self.began, self.told = one, time.monotonic(), False

    def tell(self, missing: int) -> None:
        """To be called again and again. Raises DataError after JOINING."""
        from scribbleseg.types import DataError

        waited = time.monotonic() - self.began
        if waited > SOON and not self.told:
            missing_ones = f"{missing} of the {self.one.number} processes that {self.one.by} was to start"
            print(f"Waiting for {missing_ones} (Ctrl-C ends this).", file=sys.stderr, flush=True)
            self.told = True
        if waited > JOINING.total_seconds():
            raise DataError(
                f"expected {self.one.number} processes by {self.one.by}, {missing} did not come; start all of them "
                f"with `{self.one.by}`, or one alone without it"
            )


def _gathered(one: Started, mine: R) -> list[R]:
    """What each rank has, in their order, on all ranks. Rank 0 tells the warnings of the others, each once."""
    import torch.distributed as dist

    everyone: list[Any] = [None] * one.number
    dist.all_gather_object(everyone, (mine, _heard))
    _heard.clear()
    if one.rank == 0:
        (_, told), *others = everyone
        for message in dict.fromkeys(message for _, heard in others for message in heard if message not in told):
            logging.getLogger(__name__).warning("%s", message)
        _heard.clear()
    return [found for found, _ in everyone]
