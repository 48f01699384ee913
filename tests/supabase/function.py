"""The Edge Function under a real Deno, with the environment variables that Supabase sets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.supabase.gateway import Function
from tests.supabase.processes import free_port, require, running, wait_until
from tests.supabase.stack import Project

FUNCTIONS: Final = Path(__file__).parents[2] / "supabase" / "functions"
NAME: Final = "upsert-embeddings"
SECRET: Final = "a-function-secret"


def deno_environment(project: Project) -> dict[str, str]:
    """Return an environment without the developer's settings, and with a temporary cache."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(project.stack.folder),
        "DENO_DIR": str(project.stack.folder / "deno"),
        "DENO_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }


def legacy_key(project: Project) -> str:
    """Return the project's service_role JWT; it is the same at every call."""
    return project.keys.jwt("service_role", iat=1_700_000_000, exp=4_000_000_000)


@contextmanager
def function_running(project: Project, **variables: str) -> Iterator[str]:
    """Run the function behind the project's gateway; yields its URL there."""
    port = free_port()
    environment = deno_environment(project) | {
        "DENO_SERVE_ADDRESS": f"tcp:127.0.0.1:{port}",
        "SUPABASE_URL": project.api_url,
        "SUPABASE_SECRET_KEYS": json.dumps({"default": project.keys.secret}),
        "SUPABASE_PUBLISHABLE_KEYS": json.dumps({"default": project.keys.publishable}),
        "SUPABASE_SERVICE_ROLE_KEY": legacy_key(project),
        "SUPABASE_ANON_KEY": project.keys.anon_jwt,
        "FUNCTION_SECRET": SECRET,
        **variables,
    }
    command = [
        require("deno"), "run", "--no-remote", "--no-npm", "--no-prompt", "--no-lock",
        "--config", FUNCTIONS / NAME / "deno.json",
        "--preload", FUNCTIONS / "tests" / "runtime_stub.ts",
        "--allow-net=127.0.0.1", "--allow-env", FUNCTIONS / NAME / "index.ts",
    ]  # fmt: skip
    log = project.stack.folder / f"{project.name}-function.log"
    with running(command, log, env=environment) as process:
        wait_until(lambda: _responds(port), process, log)
        project.gateway.functions[NAME] = Function(port)
        yield f"{project.api_url}/functions/v1/{NAME}"


def provider_variables(base_url: str, key: str) -> Mapping[str, str]:
    """Return the settings of an OpenAI provider."""
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key}


def _responds(port: int) -> bool:
    try:
        return httpx.put(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 405
    except httpx.HTTPError:
        return False
