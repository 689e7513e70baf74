"""How much memory there is and how much is used, wherever the model lies."""

import gc
from typing import Any

import psutil
import torch


def free_bytes(model: Any) -> int:
    """Bytes that can still be taken where the model lies: on its GPUs together, or in RAM.

    A model spread over several GPUs spreads its caches too: the fullest GPU is what counts.
    """
    gpus = _gpus(model)
    if not gpus:
        return int(psutil.virtual_memory().available)
    return len(gpus) * min(_free_on(gpu) for gpu in gpus)


def used_bytes(model: Any) -> int:
    """Bytes that this process holds there."""
    gpus = _gpus(model)
    if not gpus:
        return int(psutil.Process().memory_info().rss)
    return sum(torch.cuda.memory_allocated(gpu) for gpu in gpus)


def release() -> None:
    """Gives back what nothing refers to any more, after an allocation failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _gpus(model: Any) -> list[torch.device]:
    devices = {parameter.device for parameter in model.parameters()}
    return [device for device in devices if device.type == "cuda"]


def _free_on(gpu: torch.device) -> int:
    """What the driver has, and what torch holds without use."""
    unused = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + unused
