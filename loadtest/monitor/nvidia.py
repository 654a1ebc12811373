"""NVIDIA GPUs through the driver's own library: memory, utilisation, power, energy, temperature, clocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pynvml

from loadtest.monitor.sampler import SourceError

# Codes for a value that a GPU or a driver lacks, which is left out. Any other code is a failure.
_LACKING = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_NO_DATA,
    }
)
_WHY = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "the driver's library libnvidia-ml is not on this machine",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not read the GPU; try as another user or with the device passed in",
    pynvml.NVML_ERROR_GPU_IS_LOST: "a GPU has fallen off the bus",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver and library are of different versions; restart the machine",
}


class Nvidia:
    name = "nvidia"

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def open(self) -> dict[str, Any]:
        with _source_errors():
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            if not self._handles:
                raise SourceError("NVIDIA: the driver runs, but finds no GPU.")
            gpus = [
                {
                    "gpu": index,
                    "name": _ask_driver(pynvml.nvmlDeviceGetName, handle),
                    "memory_total": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                    **_power_limit(handle),
                }
                for index, handle in enumerate(self._handles)
            ]
            return {"driver": _ask_driver(pynvml.nvmlSystemGetDriverVersion), "gpus": gpus}

    def sample(self) -> dict[str, Any]:
        """Return per GPU: bytes, shares from 0 to 1, watts, joules since the driver was loaded, degrees Celsius, MHz."""
        with _source_errors():
            return {"gpus": [{"gpu": index, **_gpu_sample(handle)} for index, handle in enumerate(self._handles)]}

    def close(self) -> None:
        self._handles = []
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu_sample(handle: Any) -> dict[str, Any]:
    rates = _ask_driver(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _ask_driver(pynvml.nvmlDeviceGetPowerUsage, handle)
    energy = _ask_driver(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    values = {
        "memory_used": _memory_used(handle),
        "utilisation": rates.gpu / 100 if rates is not None else None,
        "memory_utilisation": rates.memory / 100 if rates is not None else None,
        "power": power / 1000 if power is not None else None,
        "energy": energy / 1000 if energy is not None else None,
        "temperature": _ask_driver(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "clock_sm": _ask_driver(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        "clock_memory": _ask_driver(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
    }
    return {key: value for key, value in values.items() if value is not None}


def _power_limit(handle: Any) -> dict[str, float]:
    """Return the watts that the driver holds a GPU to, where it says so."""
    limit = _ask_driver(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return {} if limit is None else {"power_limit": limit / 1000}


def _memory_used(handle: Any) -> int | None:
    """Return the bytes in use as nvidia-smi does, without the driver's own; drivers before 510 include those."""
    memory = _ask_driver(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if memory is None:
        memory = _ask_driver(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return int(memory.used) if memory is not None else None


def _ask_driver(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _LACKING:
            return None
        raise


@contextlib.contextmanager
def _source_errors() -> Any:
    try:
        yield
    except pynvml.NVMLError as error:
        raise SourceError(f"NVIDIA: {_WHY.get(error.value, str(error))}.") from None
