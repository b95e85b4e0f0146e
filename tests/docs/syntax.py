"""Is a command one that its tool knows? Asked of the tool's own help; nothing is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from tests.docs.pages import ROOT
from turnout.cli import app

ALWAYS = frozenset(
    {".", "cd", "cat", "cp", "echo", "export", "grep", "head", "mkdir", "mv", "read"}
)
ALWAYS |= frozenset({"sed", "set", "source", "test", "tr", "unzip"})
"""Of the shell, and of every system."""

_ASSIGNED = re.compile(r"[A-Z_a-z][A-Z_a-z0-9]*=.*", re.DOTALL)
_SEPARATORS = frozenset({"|", "||", "&&", ";", "&"})
_GCLOUD_TREE = Path("data/cli/gcloud_completions.py")


def what_is_wrong(command: str) -> list[str]:
    """Return what is wrong with one line of a shell, part by part; nothing where all is right."""
    return [found for words in parts(command) if (found := _judge(words))]


def parts(command: str) -> Iterator[list[str]]:
    """Yield each simple command of a line, those inside $(...) included, without assignments."""
    for inner in _substitutions(command):
        yield from parts(inner)
    text = re.sub(r"\d?>>?\s*&?\S+|<\s*\S+", " ", _without_substitutions(command))
    words: list[str] = []
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            words.append(word)
            continue
        while words and _ASSIGNED.fullmatch(words[0]):
            words = words[1:]
        if words:
            yield words
        words = []


def _judge(words: list[str]) -> str:
    program, *arguments = words
    if program in ALWAYS or _ASSIGNED.fullmatch(program):
        return ""
    if program not in _KNOWN:
        return f"{program}: no check is known for it (tests/docs/syntax.py)"
    return _KNOWN[program](arguments)


def _turnout(arguments: list[str]) -> str:
    command: Any = typer.main.get_command(app)
    context: Any = None
    name = "turnout"
    try:
        while True:
            context = command.make_context(name, list(arguments), parent=context)
            if not hasattr(command, "commands"):
                return ""
            arguments = [*context._protected_args, *context.args]
            name, command, arguments = command.resolve_command(context, arguments)
    except SystemExit:  # --help
        return ""
    except Exception as error:
        return f"turnout: {type(error).__name__}: {getattr(error, 'message', '')}"


def _make(arguments: list[str]) -> str:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = [one for one in arguments if "=" not in one and not one.startswith("-")]
    missing = sorted(set(wanted) - targets)
    return f"make: no target {', '.join(missing)}" if missing else ""


def _python(arguments: list[str]) -> str:
    """`python -m MODULE` of the project: the module is there, and knows each long option."""
    if arguments[:1] != ["-m"]:
        return "" if arguments and arguments[0] == "-c" else "python: only -m is checked"
    module = arguments[1]
    if module in ("venv", "pip", "http.server"):
        return ""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return f"python -m {module}: there is no such module"
    file = Path(found.origin)
    sources = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
    text = "\n".join(one.read_text() for one in (*sources, *file.parent.glob("options.py")))
    unknown = [
        option
        for option in _long(arguments[2:])
        if f'"{option}' not in text and option[2:].replace("-", "_") not in text
    ]
    return f"python -m {module}: no {', '.join(unknown)}" if unknown else ""


def _gcloud(arguments: list[str]) -> str:
    tree = _gcloud_tree()
    if tree is None:
        return ""
    flags, node, path = dict(tree["flags"]), tree, ["gcloud"]
    for word in arguments:
        if word.startswith("-") or word not in node["commands"]:
            continue
        node = node["commands"][word]
        flags |= node["flags"]
        path.append(word)
    if node["commands"]:
        return f"{' '.join(path)}: is no whole command"
    flags |= {f"--no-{name[2:]}": kind for name, kind in flags.items()}
    # gcloud takes --project everywhere, and its completions leave it out in places.
    unknown = sorted(set(_long(arguments)) - set(flags) - {"--project", "--quiet"})
    return f"{' '.join(path)}: no {', '.join(unknown)}" if unknown else ""


@cache
def _gcloud_tree() -> Mapping[str, Any] | None:
    """Return the commands and flags that the Google Cloud SDK completes; None without one."""
    program = shutil.which("gcloud")
    file = Path(program).resolve().parents[1] / _GCLOUD_TREE if program else None
    if file is None or not file.exists():
        return None
    found = importlib.util.spec_from_file_location("gcloud_completions", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    tree: Mapping[str, Any] = module.STATIC_COMPLETION_CLI_TREE
    return tree


def _helped(*help_words: str, words: int) -> Callable[[list[str]], str]:
    """Return a check by a tool's help, whose first `words` arguments are the command."""

    def check(arguments: list[str]) -> str:
        program, *ask = help_words
        if shutil.which(program) is None:
            return ""
        names = [one for one in arguments if not one.startswith("-")][:words]
        text = _help((program, *names, *ask))
        if text and program == "kubectl":
            text += _help(("kubectl", "options"))
        if not text:
            return f"{program}: no command {' '.join(names)}"
        unknown = [one for one in _options(arguments) if not _named(one, text, program)]
        return f"{program} {' '.join(names)}: no {', '.join(unknown)}" if unknown else ""

    return check


@cache
def _help(command: tuple[str, ...]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    return done.stdout + done.stderr if done.returncode == 0 else ""


def _named(option: str, text: str, program: str) -> bool:
    # Terraform's own global option is described nowhere in its commands' help.
    if program == "terraform" and option == "-chdir":
        return True
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def _long(arguments: list[str]) -> list[str]:
    return [one.split("=")[0] for one in arguments if one.startswith("--") and len(one) > 2]


def _options(arguments: list[str]) -> list[str]:
    return [one.split("=")[0] for one in arguments if re.match(r"-{1,2}[a-zA-Z]", one)]


def _substitutions(command: str) -> list[str]:
    return re.findall(r"\$\(((?:[^()]|\([^()]*\))*)\)", command)


def _without_substitutions(command: str) -> str:
    return re.sub(r"\$\(((?:[^()]|\([^()]*\))*)\)", "SUBSTITUTED", command)


_KNOWN: Mapping[str, Callable[[list[str]], str]] = {
    "turnout": _turnout,
    "make": _make,
    "python": _python,
    "python3": _python,
    "gcloud": _gcloud,
    "terraform": _helped("terraform", "-help", words=1),
    "curl": _helped("curl", "--help", "all", words=0),
    "kubectl": _helped("kubectl", "--help", words=3),
    "docker": _helped("docker", "--help", words=1),
    "jq": _helped("jq", "--help", words=0),
    "bq": lambda _: "",
    "pip": lambda _: "",
}
