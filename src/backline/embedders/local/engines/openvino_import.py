"""Import OpenVINO without its telemetry.

`import openvino` reports to Google Analytics: it writes an identifier to ~/intel and starts a
process that sends an event, unless openvino_telemetry cannot be imported. Local embedding must not
send anything, so this module blocks the telemetry package during the import.
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
