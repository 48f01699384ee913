"""The listening socket, and that the command line does not import the server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from backline import errors
from backline.server import uvicorn


def test_command_line_does_not_import_the_server() -> None:
    code = (
        "import sys; from backline.cli.commands import command_line;"
        "[*command_line().commands.values()];"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_accepted_connections_have_tcp_nodelay() -> None:
    """Without TCP_NODELAY, a response in two parts takes 40 ms longer."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Recorder(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted_socket = transport.get_extra_info("socket")
            accepted.set_result(accepted_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    bound = uvicorn.bind("127.0.0.1", 0)
    server = await asyncio.get_running_loop().create_server(Recorder, sock=bound)
    _, writer = await asyncio.open_connection(*bound.getsockname())
    assert await accepted == 1
    writer.close()
    server.close()
    await server.wait_closed()


def test_port_in_use_is_a_configuration_error() -> None:
    with uvicorn.bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(errors.ConfigurationError, match=rf"127\.0\.0\.1:{port}.*--port"):
            uvicorn.bind("127.0.0.1", port)


def test_address_of_another_machine_is_a_configuration_error() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"203\.0\.113\.7"):
        uvicorn.bind("203.0.113.7", 0)
