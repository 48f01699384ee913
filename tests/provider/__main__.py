"""Run the stand-in as a process: print its base URL, then serve until interrupted."""

from __future__ import annotations

import argparse
import json
import threading
from contextlib import suppress

from tests.provider.standin import StandInProvider


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, selects a free port")
    parser.add_argument("--api-key", default="sk-stand-in", help="the one key that is accepted")
    parser.add_argument("--behave", default="{}", help="fields of Behaviour as a JSON object")
    options = parser.parse_args()
    provider = StandInProvider(port=options.port, api_key=options.api_key)
    provider.behave(**json.loads(options.behave))
    with provider, suppress(KeyboardInterrupt):
        print(provider.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
