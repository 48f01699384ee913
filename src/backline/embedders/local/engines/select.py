"""Choose and start the engine at run time."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from backline.embedders.local.bert import Bert
from backline.embedders.local.cpus import usable_cpus
from backline.embedders.local.engines.base import Engine
from backline.embedders.local.engines.numpy import NumpyEngine
from backline.errors import ConfigurationError
from backline.extras import importable

ENGINES = ("auto", "openvino", "openvino-f32", "openvino-bf16", "numpy")
"""auto: openvino if it is installed and starts, else numpy. openvino: bfloat16 if the processor
multiplies it in hardware, else float32. The two suffixed names fix the precision."""

REMEDY = "pip install openvino"
"""The base install includes OpenVINO on every platform with wheels, except Linux on ARM, where they
need glibc 2.35."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine for local models on this machine: name, precision ("f32" or "bf16") and threads.

    `remedy` is the command that installs the faster engine; None if that engine is in use.
    """

    name: str
    precision: str
    threads: int
    remedy: str | None = None


def choose_engine(name: str = "auto", threads: int | None = None) -> EngineChoice:
    """Return the engine that `start_engine` would start, without loading a model.

    Raises:
        ConfigurationError: no such engine.
    """
    if name not in ENGINES:
        raise _unknown(name)
    threads = threads or usable_cpus()
    if name == "numpy":
        return EngineChoice("numpy", "f32", threads)
    if not importable("openvino"):
        return EngineChoice("numpy", "f32", threads, REMEDY)
    if name in ("auto", "openvino"):
        from backline.embedders.local.engines.openvino import native_precision

        return EngineChoice("openvino", native_precision(), threads)
    return EngineChoice("openvino", name.removeprefix("openvino-"), threads)


def _unknown(name: str) -> ConfigurationError:
    return ConfigurationError(f"There is no engine {name!r}. Use one of {', '.join(ENGINES)}.")


def start_engine(name: str, bert: Bert, threads: int) -> Engine:
    """Start the engine `name` on `threads` processor threads.

    Raises:
        ConfigurationError: no such engine, or an engine named explicitly does not start.
    """
    if name == "numpy":
        return NumpyEngine(bert, threads)
    if name == "auto":
        return _start_fastest(bert, threads)
    if name not in ENGINES:
        raise _unknown(name)
    try:
        return _start_openvino(name, bert, threads)
    except ImportError as error:
        raise ConfigurationError(
            f"The engine {name} needs OpenVINO, which is not installed. Run: {REMEDY}; "
            "or set BACKLINE_LOCAL_ENGINE=numpy."
        ) from error
    except RuntimeError as error:
        raise ConfigurationError(f"OpenVINO does not start on this machine: {error}") from error


def _start_fastest(bert: Bert, threads: int) -> Engine:
    if importable("openvino"):
        try:
            return _start_openvino("openvino", bert, threads)
        except (ImportError, RuntimeError) as error:
            _log.warning("OpenVINO does not start, falling back to numpy: %s", error)
    return NumpyEngine(bert, threads)


def _start_openvino(name: str, bert: Bert, threads: int) -> Engine:
    # A late import, because it takes 60 ms and not every platform has OpenVINO.
    from backline.embedders.local.engines.openvino import OpenVinoEngine, native_precision

    if name == "openvino-f32":
        return OpenVinoEngine(bert, threads, "f32")
    if name == "openvino-bf16":
        return OpenVinoEngine(bert, threads, "bf16")
    return OpenVinoEngine(bert, threads, native_precision())
