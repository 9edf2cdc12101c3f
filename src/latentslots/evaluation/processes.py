"""How the processes of `torch.distributed` share an evaluation; one process without it."""

from typing import Any

from torch import distributed


def own_process() -> tuple[int, int]:
    """Return the rank of this process, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def own_share(total: int) -> range:
    """Return the indices of this process's images, consecutive and in the order of ranks."""
    rank, num_processes = own_process()
    return range(rank * total // num_processes, (rank + 1) * total // num_processes)


def true_on_all_processes(value: bool) -> bool:
    """Whether a value is true in every process; all of them must call this."""
    if own_process()[1] == 1:
        return value
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return all(values)
