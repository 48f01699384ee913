"""Standard output and standard error: JSON, closed pipes, colours, widths and encodings."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from tests.integration.cli.conftest import BACKLINE, Cli
from tests.provider import StandInProvider

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07")

JSON_COMMANDS = [
    "config",
    "model list",
    "migrate",
    "status",
    "backfill tickets --dry-run",
    "backfill tickets",
    "verify tickets",
    "failures list tickets",
    "failures retry tickets",
    "failures drop tickets",
    "runs list",
    "search ticket --collection tickets",
    "queries tickets",
    "drop tickets",
]


def test_json_prints_one_object_and_nothing_else(cli: Cli, collection: str) -> None:
    for command in JSON_COMMANDS:
        assert cli(*command.split(), "--json").json, command


@pytest.mark.parametrize("command", ["migrate", "backfill", "runs list", "search q"])
def test_json_prints_an_error_as_one_object_and_nothing_else(bare: Cli, command: str) -> None:
    outcome = bare(*command.split(), "--json", code=2, DATABASE_URL="postgresql://u@127.0.0.1:1/d")
    assert outcome.json["error"]["kind"] == "DatabaseUnavailableError"


def test_a_closed_pipe_causes_no_traceback(cli: Cli, collection: str) -> None:
    for command in ("model list", "config --json"):
        piped = subprocess.run(
            f"'{BACKLINE}' {command} | head -c 1",
            shell=True,
            cwd=cli.folder,
            env=cli._environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (piped.returncode, piped.stderr) == (0, ""), command


OUTPUTS = [
    "--version", "--help", "config", "config --json", "status", "status --json", "verify tickets",
    "runs list", "failures list tickets", "search ticket -c tickets", "migrate",
]  # fmt: skip


def test_output_to_a_full_device_is_an_error_of_one_line(cli: Cli, collection: str) -> None:
    cli("backfill", "tickets")
    for command in OUTPUTS:
        code, err = redirected(cli, command, ">/dev/full")
        assert (code, err) == (
            1, "error: The output cannot be written: No space left on device.\n"
        ), command  # fmt: skip


@pytest.mark.parametrize("stream", [">&-", "2>/dev/full", "2>&-"])
def test_a_closed_output_or_a_full_error_stream_changes_no_exit_code(
    cli: Cli, collection: str, stream: str
) -> None:
    assert redirected(cli, "backfill tickets", stream) == (0, "")
    assert redirected(cli, "status tickets", stream) == (0, "")
    assert redirected(cli, "status nothing", stream)[0] == 2


def redirected(cli: Cli, command: str, redirection: str) -> tuple[int, str]:
    """Return the exit code and standard error of a command of a shell."""
    done = subprocess.run(
        f"'{BACKLINE}' {command} {redirection}",
        shell=True,
        cwd=cli.folder,
        env=cli._environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_times_have_a_zone(cli: Cli, paid: StandInProvider) -> None:
    paid.behave(reject_marker="body of 77")
    cli("backfill", "tickets", code=1)
    for command in ("runs list", "failures list tickets"):
        times = re.findall(r"\d\d:\d\d:\d\d(\S*)", cli(*command.split(), TZ="Asia/Kolkata").out)
        assert times == ["+05:30"], command
    verbose = cli("-v", "backfill", "tickets", "--limit", "1", code=None, TZ="Asia/Kolkata").err
    assert all("+0530" in line for line in verbose.splitlines() if re.match(r"\d\d:", line))


def test_an_error_is_wrapped_between_words(cli: Cli, collection: str) -> None:
    expected = cli("status", "nothing", code=2).err.split()
    for columns in (60, 100, 120):
        lines = visible_lines(on_terminal(cli, "status", "nothing", columns=columns))
        assert max(map(len, lines)) <= columns
        assert " ".join(lines).split() == expected, columns


def test_without_a_terminal_output_has_no_colours_and_no_wrapping(
    cli: Cli, collection: str
) -> None:
    outcome = cli("backfill", "tickets")
    assert "\x1b" not in outcome.out + outcome.err
    assert "  coverage  120 of 120 rows embedded (100 %)\n" in outcome.out
    assert cli("status", COLUMNS="20").out == cli("status", COLUMNS="200").out


def test_without_a_terminal_progress_is_plain_lines(cli: Cli, paid: StandInProvider) -> None:
    paid.behave(delay_s=0.6)
    outcome = cli("backfill", "tickets", "--batch-size", "10", "--workers", "1")
    lines = [line for line in outcome.err.splitlines() if line]
    assert lines
    assert all(re.fullmatch(r"\d+ of 120 rows, .*", line) for line in lines), lines


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_an_ascii_locale_causes_no_error(cli: Cli, locale: dict[str, str]) -> None:
    cli.environment |= locale
    (cli.folder / "n.jsonl").write_text('{"id": "ü", "title": "träume 🎧"}\n', encoding="utf-8")
    cli("load", "n.jsonl", "--table", "notes")
    cli("add", "notes", "--text", "{title}", "--model", "hash@8")
    cli("backfill", "notes")
    cli("backfill", "nope", code=2)
    hit = cli("search", "träume", "--collection", "notes", "--json").json["hits"][0]
    assert hit["row"]["title"] == "träume 🎧"
    assert cli("search", "träume", "--collection", "notes").out


# --- a terminal -----------------------------------------------------------------------------------


def on_terminal(cli: Cli, *args: str, columns: int, **environment: str) -> str:
    """Return the program's output on a terminal of that width, with its escape sequences."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [BACKLINE, *args],
        cwd=cli.folder,
        env=cli._environment({"TERM": "xterm-256color", **environment}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        written += chunk
    process.wait()
    os.close(controller)
    return written.decode()


def visible_lines(written: str) -> list[str]:
    return [
        line.split("\r")[-1] for line in ESCAPES.sub("", written).replace("\r\n", "\n").split("\n")
    ]


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal(cli: Cli, paid: StandInProvider, columns: int) -> None:
    paid.behave(delay_s=0.2, reject_marker="body of 77")
    for command in (
        "backfill tickets --workers 1",
        "status",
        "failures list tickets",
    ):
        written = on_terminal(cli, *command.split(), columns=columns)
        too_wide = [line for line in visible_lines(written) if len(line.rstrip()) > columns]
        assert not too_wide, (command, too_wide)


def test_a_terminal_shows_a_bar_with_rate_and_remaining_time(
    cli: Cli, paid: StandInProvider
) -> None:
    paid.behave(delay_s=0.4)
    written = on_terminal(
        cli, "backfill", "tickets", "--batch-size", "10", "--workers", "1", columns=80
    )
    text = ESCAPES.sub("", written)
    assert re.search(r"━+.* \d+/120 [\d.]+ rows/s, [\d.]+ m?i?n? ?s? left", text), text
    assert "\x1b[" in written


def test_no_color_switches_colours_off(cli: Cli, collection: str) -> None:
    written = on_terminal(cli, "verify", "tickets", columns=80, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)
    coloured = on_terminal(cli, "verify", "tickets", columns=80)
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", coloured)


def test_verbose_logs_to_standard_error(cli: Cli, paid: StandInProvider) -> None:
    outcome = cli("backfill", "tickets", "-v", "--json")
    assert outcome.json["complete"]
    assert "/v1/embeddings" in outcome.err
    assert paid.api_key not in outcome.err


def test_config_masks_secrets(cli: Cli, tmp_path: Path) -> None:
    (cli.folder / ".env.local").write_text(
        "OPENAI_API_KEY=sk-hunter2\nSUPABASE_SERVICE_ROLE_KEY=hunter2\nFUNCTION_SECRET=hunter2\n"
    )
    output = cli("config", DATABASE_URL="postgresql://u:hunter2@h/d").out
    assert "hunter2" not in output
    assert re.search(r"openai_api_key +\*\*\* +OPENAI_API_KEY in \.env\.local", output)
    assert re.search(r"database_url +\*\*\* +DATABASE_URL in the environment", output)
