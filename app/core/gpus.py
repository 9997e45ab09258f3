"""Reads the GPUs of this node by NVML; there are none where NVML is not there.

NVML is NVIDIA's own library; its Python module comes with the extra `gpu`.
"""

import logging
from functools import cache
from types import ModuleType
from typing import NamedTuple

logger = logging.getLogger(__name__)

MILLIWATTS = 1_000.0


class GpuFigures(NamedTuple):
    """One GPU now.

    Args:
        number: as NVML counts.
        memory_used_bytes: by all processes.
        memory_total_bytes: that it has.
        utilization: share of the last second in which it computed, in [0, 1].
        temperature_c: in degrees Celsius.
        power_w: that it draws.
    """

    number: int
    memory_used_bytes: float
    memory_total_bytes: float
    utilization: float
    temperature_c: float
    power_w: float


def read_gpus() -> list[GpuFigures]:
    """Return the figures of every GPU; one that does not answer is left out."""
    nvml = _opened_nvml()
    if nvml is None:
        return []
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found.append(_figures(nvml, index))
        except nvml.NVMLError as error:
            logger.warning("GPU not read", extra={"gpu": index, "reason": str(error)})
    return found


def _figures(nvml: ModuleType, index: int) -> GpuFigures:
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    return GpuFigures(
        index,
        float(memory.used),
        float(memory.total),
        nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100.0,
        float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
        nvml.nvmlDeviceGetPowerUsage(gpu) / MILLIWATTS,
    )


@cache
def _opened_nvml() -> ModuleType | None:
    """Return NVML's module with the library opened; None without the module or a driver."""
    try:
        # imported here: only nodes with a GPU have it
        import pynvml
    except ModuleNotFoundError:
        return None
    module: ModuleType = pynvml
    try:
        module.nvmlInit()
    except module.NVMLError:
        return None
    return module
