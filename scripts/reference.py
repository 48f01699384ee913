"""Write the reference pages under docs/reference from the program.

usage: python scripts/reference.py [--check]

With --check, nothing is written and the exit code is 1 if a page is outdated.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

import backline
from backline import config, errors
from backline.cli.commands import command_line
from backline.embedders import registry
from backline.postgres.connector import Connector
from backline.postgres.store import Store
from backline.server import create_app
from backline.sql import migrations

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "docs" / "reference"
NOTICE: Final = "<!-- Made by `make docs`; edit the program, not this page. -->\n"


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    texts = {
        "commands.md": commands(),
        "settings.md": settings(),
        "sql.md": sql(),
        "errors.md": error_tree(),
        "python.md": python(),
        "http.md": http(),
        "actions.md": actions(),
        "providers.md": providers(),
    }
    return {name: f"{NOTICE}\n{text.strip()}\n" for name, text in texts.items()}


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- commands -------------------------------------------------------------------------------------


def commands() -> str:
    intro = (
        "# Commands\n\nEvery command accepts `--help`. With `--json`, standard output is exactly "
        "one JSON object, for errors too. Progress, messages and logs go to standard error.\n\n"
        + _table(
            ["exit code", "meaning"],
            [
                ["0", "success"],
                [
                    "1",
                    "a result that is not complete, or an error during the work; see each command",
                ],
                ["2", "wrong usage or configuration; nothing was embedded"],
                ["130", "ended by Ctrl-C before a report existed"],
            ],
        )
    )
    return "\n\n".join([intro, *(_command(name, each) for name, each in leaves(command_line()))])


def leaves(group: Any, prefix: str = "backline") -> Iterator[tuple[str, Any]]:
    """Yield every executable command with its full name."""
    for name, each in group.commands.items():
        if isinstance(each, TyperGroup):
            yield from leaves(each, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", each


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([name, *(_metavar(p) for p in arguments), "[OPTIONS]"])
    parts = [f"## {name}", f"```text\n{usage}\n```", inspect.cleandoc(command.help or "")]
    rows = [[f"`{_metavar(p)}`", p.help or "", _default(p)] for p in arguments]
    rows += [[f"`{_option(p)}`", p.help or "", _default(p)] for p in options]
    return "\n\n".join([*parts, _table(["", "meaning", "default"], rows), command.epilog])


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Any) -> str:
    flags = ", ".join(parameter.opts)
    if parameter.is_flag:
        return flags
    return f"{flags} {parameter.metavar or 'VALUE'}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = parameter.default
    return "" if shown is None or parameter.show_default is False else f"`{shown}`"


# --- settings -------------------------------------------------------------------------------------


def settings() -> str:
    rows = [
        [
            f"`{name}`",
            "<br>".join(f"`{each}`" for each in config.names_of(name)),
            _default_of(field.default),
            (field.description or "") + _limits(field.metadata),
        ]
        for name, field in config.Settings.model_fields.items()
    ]
    return (
        "# Settings\n\nA setting gets its value from the first source that has it: command-line "
        "flag, environment, `.env.local`, `.env`, `backline.toml`. The files are read from the "
        "current folder. In `backline.toml`, a setting has its name in the first column. "
        "Elsewhere, it has the variables in the second column, and the first one that is set wins. "
        "An empty variable counts as unset. `backline config` shows every setting and its origin, "
        "with secrets "
        "masked.\n\n" + _table(["setting", "variables", "default", "meaning"], rows)
    )


def _default_of(value: Any) -> str:
    return "unset" if value is None or value is PydanticUndefined else f"`{value}`"


def _limits(metadata: list[Any]) -> str:
    signs = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    limits = [
        f"{words} {getattr(item, name):g}"
        for item in metadata
        for name, words in signs.items()
        if hasattr(item, name)
    ]
    return f" {', '.join(limits).capitalize()}." if limits else ""


# --- SQL ------------------------------------------------------------------------------------------

_COMMENT: Final = re.compile(
    r"comment on function backline\.(\w+)(?:\([^)]*\))?\s+is\s+'API: ((?:[^']|'')*)'", re.IGNORECASE
)


def sql() -> str:
    text = "\n".join(migration.sql for migration in migrations())
    described = {name: purpose.replace("''", "'") for name, purpose in _COMMENT.findall(text)}
    rows = [[f"`{_signature(text, name)}`", purpose] for name, purpose in sorted(described.items())]
    return (
        "# SQL API\n\nThese functions of the schema `backline` are the protocol of every worker. "
        "They are public: their names, arguments and meaning change only with a note in the "
        "changelog. Every other object of the schema is private. The comment above each function "
        "in `src/backline/sql/schema/functions/` describes it in full. Only the owner and, on "
        "Supabase, `service_role` may call them.\n\n" + _table(["function", "purpose"], rows)
    )


def _signature(text: str, name: str) -> str:
    """Return the name and arguments of the newest definition, up to the matching parenthesis."""
    starts = [m.end() for m in re.finditer(rf"function backline\.{name}\s*\(", text)]
    definitions = [s for s in starts if "comment on" not in text[max(0, s - 60) : s].lower()]
    depth, at = 1, definitions[-1]
    while depth:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return f"{name}({' '.join(text[definitions[-1] : at - 1].split())})"


# --- errors ---------------------------------------------------------------------------------------


def error_tree() -> str:
    rows = [
        [f"{'&emsp;' * depth}`{kind.__name__}`", str(kind.exit_code), _first_paragraph(kind)]
        for depth, kind in _tree(errors.BacklineError, 0)
    ]
    return (
        "# Errors\n\nEvery error that Backline defines is in this tree, in `backline.errors`. The "
        "message states the problem, with the numbers, and the remedy. With `--json`, a command "
        "prints "
        '`{"error": {"kind": …, "message": …, "exit_code": …}}`.\n\n'
        + _table(["error", "exit code", "default message"], rows)
    )


def _tree(kind: type[errors.BacklineError], depth: int) -> Iterator[tuple[int, Any]]:
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def _first_paragraph(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").split("\n\n")[0]


# --- Python ---------------------------------------------------------------------------------------


def python() -> str:
    intro = _python_intro(inspect.getdoc(backline) or "")
    return "\n\n".join(
        [intro, *(_entry(name, getattr(backline, name)) for name in backline.__all__)]
    )


def _python_intro(doc: str) -> str:
    text, _, example = doc.partition("\n\n    ")
    code = inspect.cleandoc(f"    {example}")
    return f"# Python API\n\n{text}\n\n```python\n{code}\n```"


def _entry(name: str, entry: Any) -> str:
    if inspect.ismodule(entry):
        public = getattr(entry, "__all__", None) or _own_functions(entry)
        members = [_line(f"{name}.{each}", getattr(entry, each)) for each in sorted(public)]
        if name == "errors":
            members = ["See [errors](errors.md)."]
        return "\n\n".join([f"## backline.{name}", _first_paragraph(entry), *members])
    parts = [f"## {name}", f"```python\n{_call(name, entry)}\n```", _doc(entry)]
    if inspect.isclass(entry):
        parts += [_line(f"{name}.{each}", member) for each, member in _methods(entry)]
    return "\n\n".join(parts)


def _own_functions(module: Any) -> list[str]:
    return [
        name
        for name, entry in inspect.getmembers(module, inspect.isfunction)
        if entry.__module__ == module.__name__ and not name.startswith("_")
    ]


def _methods(kind: type) -> list[tuple[str, Any]]:
    members = {
        name: getattr(kind, name)
        for each in kind.__mro__
        if each.__module__.startswith("backline.")
        for name in vars(each)
    }
    return [
        (name, member)
        for name, member in members.items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
        and inspect.getdoc(member)
    ]


def _line(name: str, entry: Any) -> str:
    call = name if isinstance(entry, property) else _call(name, entry)
    return f"- `{call}`: {' '.join(_first_paragraph(entry).split())}"


def _call(name: str, entry: Any) -> str:
    if dataclasses.is_dataclass(entry):
        fields = ", ".join(
            f.name if f.type is None else f"{f.name}: {f.type}" for f in dataclasses.fields(entry)
        )
        return f"{name}({fields})"
    if not callable(entry) or (inspect.isclass(entry) and issubclass(entry, Exception)):
        return name
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(entry)))
    signature = re.sub(
        r"<[^<>]*(<[^<>]*>)?[^<>]*>", "…", signature
    )  # defaults without a readable form
    return name + signature.removesuffix(" -> None" if inspect.isclass(entry) else "\0")


def _doc(entry: Any) -> str:
    first, _, rest = (inspect.getdoc(entry) or "").partition("\n\n")
    return f"{first}\n\n```text\n{rest}\n```" if rest else first


# --- HTTP -----------------------------------------------------------------------------------------


def http() -> str:
    document = create_app(Store(Connector("")), config.Settings(), worker=False).openapi()
    intro = (
        "# HTTP API\n\n`backline serve` offers this API. `/openapi.json` is its OpenAPI document, "
        "and `/docs` is an interactive page. If the server has a key, writes need `Authorization: "
        "Bearer KEY` or `X-API-Key: KEY`. With `--protect-reads`, reads need it too. Every error "
        "is a problem document (RFC 9457) of type `application/problem+json`. Every response has "
        "an `X-Request-ID`, which is also in the log. [Serve](../how-to/serve.md#websocket) "
        "describes the WebSocket `/ws`."
    )
    parts = [intro]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(document, f"{method.upper()} {path}", operation))
    return "\n\n".join([*parts, *_objects(document)])


def _objects(document: dict[str, Any]) -> Iterator[str]:
    """Yield the objects that occur in requests and responses."""
    schemas = document["components"]["schemas"]
    inner = set(re.findall(r'schemas/(\w+)"', json.dumps(schemas)))
    yield "## Objects"
    for name in sorted(inner):
        rows = [[*row] for row in _members(document, {"$ref": name})]
        description = schemas[name].get("description", "")
        yield "\n\n".join(
            [
                f"### {name}",
                *([description] if description else []),
                _table(["", "type", "required", "meaning"], rows),
            ]
        )


def _operation(document: dict[str, Any], call: str, operation: dict[str, Any]) -> str:
    rows = [
        [f"`{p['name']}`", p["in"], _type(p["schema"]), "yes" if p.get("required") else "",
         p.get("description") or p["schema"].get("description", "")]
        for p in operation.get("parameters", ())
    ]  # fmt: skip
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        rows += [[name, "body", kind, need, meaning] for name, kind, need, meaning in
                 _members(document, body["schema"])]  # fmt: skip
    parts = [f"## {call}", operation.get("description") or operation["summary"]]
    if rows:
        parts.append(_table(["", "in", "type", "required", "meaning"], rows))
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        if content:
            members = [
                [name, kind, meaning]
                for name, kind, _, meaning in _members(document, content["schema"])
            ]
            parts += [f"Response {status}:", _table(["", "type", "meaning"], members)]
    problems = [status for status in operation["responses"] if int(status) >= 400]
    return "\n\n".join([*parts, f"Problems: {', '.join(problems)}."])


def _members(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    target = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for name, member in target["properties"].items():
        need = "yes" if name in target.get("required", ()) else ""
        yield f"`{name}`", _type(member), need, member.get("description", "")


def _type(schema: dict[str, Any]) -> str:
    """Return a member's type in words, with its limits and its default."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        kind = " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    elif "enum" in schema:
        kind = ", ".join(f"`{value}`" for value in schema["enum"])
    elif schema.get("type") == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    else:
        kind = str(schema.get("const") or schema.get("format") or schema.get("type", "anything"))
    signs = {"minimum": "from", "maximum": "to", "maxLength": "characters up to"}
    limits = [f"{words} {schema[name]:,}" for name, words in signs.items() if name in schema]
    if schema.get("default") is not None:
        limits.append(f"default `{schema['default']}`")
    return ", ".join([kind, *limits])


# --- actions --------------------------------------------------------------------------------------


def actions() -> str:
    """Return the studio's actions, from the table of the page and of GET /api/actions."""
    text = files("backline.data").joinpath("actions.json").read_text(encoding="utf-8")
    table: list[dict[str, Any]] = json.loads(text)["actions"]
    categories = dict.fromkeys(action["category"] for action in table)
    intro = (
        "# Actions of the studio\n\nEvery function of the studio is an action with a number from "
        "44100 to 44999. The command palette (Ctrl K, on a Mac Cmd K) lists them, and the page "
        "Actions changes their shortcuts. `GET /api/actions` serves this table. A host names an "
        "action by its number or name in a frame `action` of the WebSocket. `Mod` is Ctrl, or Cmd "
        "on a Mac. `g a` means one key after the other."
    )
    return "\n\n".join([intro, *(_actions_of(name, table) for name in categories)])


def _actions_of(category: str, table: list[dict[str, Any]]) -> str:
    header = ["number", "name", "action", "where", "shortcut", "parameters", "undo"]
    rows = [
        [
            str(action["id"]), f"`{action['name']}`", f"{action['title']}: {action['description']}",
            "everywhere" if "all" in action["contexts"] else ", ".join(action["contexts"]),
            f"`{action['shortcut']}`" if action["shortcut"] else "",
            ", ".join(f"`{name}`: `{kind}`" for name, kind in action["parameters"].items()),
            "yes" if action["undoable"] else "",
        ]
        for action in table
        if action["category"] == category
    ]  # fmt: skip
    return f"## {category}\n\n{_table(header, rows)}"


# --- providers ------------------------------------------------------------------------------------


def providers() -> str:
    """Return the providers, what the tests hold each of them to, and their models."""
    known = registry.providers()
    intro = (
        "# Providers and models\n\n`--model PROVIDER/NAME` or `PROVIDER/NAME@DIMENSIONS` names a "
        "model of a provider. A model without an entry below is accepted by name; its dimensions "
        "are asked once. [Use a provider](../how-to/providers.md) has examples. The facts are in "
        "`src/backline/data/providers.toml` and `models.toml`, with the day on which each was "
        "checked. `backline model list --all` shows them too."
    )
    rows = [
        [
            entry.title,
            f"`{name}/`",
            f"`{entry.keys[0]}`" + ("" if entry.key_required else " (if the server has one)"),
            f"`{entry.addresses[0]}`",
            entry.base_url or "required",
            ", ".join(_limits_of(entry)),
        ]
        for name, entry in known.items()
    ]
    header = [
        "provider",
        "models",
        "key",
        "other address",
        "own address",
        "one request has at most",
    ]
    return "\n\n".join([intro, _table(header, rows), _conformance(), _models(), _declared()])


def _limits_of(entry: registry.ProviderEntry) -> list[str]:
    limits = ((entry.max_inputs, "texts"), (entry.max_tokens, "tokens"))
    return [f"{most:,} {unit}" for most, unit in limits if most]


def _conformance() -> str:
    """Return the table of the suite that runs every behaviour for every provider."""
    sys.path.insert(0, str(ROOT))  # the suite's declarations are with the tests
    from tests.provider.conformance import BEHAVIOURS, SUBJECTS

    reasons = sorted({reason for each in SUBJECTS.values() for reason in each.without.values()})
    rows = [
        [
            sentence,
            *(
                str(reasons.index(each.without[name]) + 1) if name in each.without else "yes"
                for each in SUBJECTS.values()
            ),
        ]
        for name, sentence in BEHAVIOURS.items()
    ]
    notes = [f"{n}. {reason[0].upper()}{reason[1:]}." for n, reason in enumerate(reasons, 1)]
    return "\n\n".join(
        [
            "## What every provider is held to",
            "One suite runs each line for each provider, against a server that speaks the wire "
            "format as its reference describes it. A number says why a line does not apply.",
            _table(["", *SUBJECTS], rows),
            "\n".join(notes),
        ]
    )


def _models() -> str:
    header = ["model", "dimensions", "may be requested", "longest text", "query", "passage",
              "$/M tokens", "licence", "ends", "checked"]  # fmt: skip
    rows = [_model(each) for each in registry.models() if each.provider != "supabase"]
    return "\n\n".join(
        [
            "## Models",
            "A query and a passage are marked by a prefix or by a type that is sent beside the "
            "text, on every path that embeds them. Open weights are named as their server names "
            "them; their prefixes are found by the repository.",
            _table(header, rows),
        ]
    )


def _model(entry: registry.ModelEntry) -> list[str]:
    owner = entry.provider or "compatible"
    prompts = registry.prompts(owner, entry.name)
    other = "" if entry.allowed == str(entry.dimensions) else entry.allowed
    return [
        f"`{entry.id}`" if entry.id else f"`{entry.repository}` on any server",
        f"{entry.dimensions:,}",
        other,
        f"{entry.max_tokens:,} tokens",
        _code(prompts.query or prompts.query_type),
        _code(prompts.passage or prompts.passage_type),
        "" if entry.price is None else f"{entry.price:g}",
        entry.license or "",
        f"{entry.ends}; then `{entry.successor}`" if entry.ends else "",
        str(entry.checked),
    ]


def _code(text: str | None) -> str:
    return f"`{' '.join(text.split())}`" if text else ""


def _declared() -> str:
    """Return the members of an entry, from the comment at the head of the file."""
    text = files("backline.data").joinpath("models.toml").read_text(encoding="utf-8")
    head = text[: text.index("\n\n")]
    lines = re.sub(r"\n#\s{19,}", " ", head).splitlines()
    members = [re.split(r"\s{2,}", line[1:].strip(), maxsplit=1) for line in lines]
    rows = [[f"`{each[0]}`", each[1]] for each in members if len(each) == 2]
    return "\n\n".join(
        [
            "## Models of your own",
            "`backline.toml` may add entries, or replace shipped ones of the same name. An entry "
            "that is not valid is refused by every command, with its number and the remedy.",
            '```toml\n[[models]]\nid = "compatible/house-embeddings"\ndimensions = 768\n'
            'max_tokens = 512\nquery = "query: "\npassage = "passage: "\n```',
            _table(["member", "meaning"], rows),
        ]
    )


# --- writing --------------------------------------------------------------------------------------


def main() -> int:
    stale = []
    for name, text in pages().items():
        file = FOLDER / name
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            FOLDER.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}. Run: make docs", file=sys.stderr)
        return 1
    print(f"written: {', '.join(stale)}" if stale else "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
