"""OpenVINO, imported without its telemetry.

`import openvino` alone reports itself to Google Analytics: it writes an identifier to ~/intel and
starts a process that sends an event, unless openvino_telemetry cannot be imported. Whoever embeds
locally does so to keep to their machine, so for the length of this import it cannot be.
"""

from __future__ import annotations

import sys
from typing import Any

_NAME = "openvino_telemetry"
_modules: dict[str, Any] = sys.modules
_absent = _NAME not in _modules

if _absent:
    _modules[_NAME] = None
try:
    import openvino as ov
    from openvino import opset13 as op
finally:
    if _absent:
        del _modules[_NAME]

__all__ = ["op", "ov"]
