"""docs/reference/settings.md: every environment variable that the code reads, found in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.docs.markdown import code, generated, table

FOLDERS = ("shared", "functions", "serving", "turnout", "examples")
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
# A request's environment, by WSGI: no variables of the process.
_WSGI = re.compile(r"HTTP_|PATH_INFO$|CONTENT_(LENGTH|TYPE)$|REQUEST_METHOD$")
_ENVIRONMENTS = {"environ", "env", "values", "environment"}

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Pipeline: the functions and the command line": {
        "TURNOUT_PROJECT": "The Google Cloud project. With it the command line talks to Google "
        "Cloud, without it to the local cloud.",
        "GOOGLE_CLOUD_PROJECT": "The project where `TURNOUT_PROJECT` is not set; Google's own name "
        "for it.",
        "TURNOUT_REGION": "The region; `europe-central2` by default.",
        "TURNOUT_TRAINING_BUCKETS": "Buckets that artifacts may come from, separated by commas; "
        "`PROJECT-training` by default. The first is where the example trainer uploads.",
        "TURNOUT_SERVING_BUCKET": "The bucket that deployed artifacts are copied to; "
        "`PROJECT-serving` by default.",
        "TURNOUT_FUNCTIONS_URL": "What the functions' URLs begin with; "
        "`https://REGION-PROJECT.cloudfunctions.net` by default.",
        "TURNOUT_GRPC_EMULATOR_HOST": "host:port of the local cloud's gRPC server. Never set in "
        "production.",
        "TURNOUT_CHAT_WEBHOOK": "An incoming webhook of Slack, Google Chat or Mattermost: an https "
        "URL, and a secret. Empty: only the log is told.",
        "TURNOUT_DASHBOARD_URL": "Where links in chat messages lead; "
        "the functions' URL and `/dashboard` by default.",
    },
    "Dashboard": {
        "TURNOUT_IDENTITY": "Who says who asks: `iam` (default), `iap`, or `local` (everybody is "
        "an admin; refused on Cloud Run).",
        "TURNOUT_AUDIENCE": "With `iam`: the audiences that an ID token may be for, separated by "
        "commas.",
        "TURNOUT_IAP_AUDIENCE": "With `iap`: the audience that Identity-Aware Proxy signs for. "
        "Required there.",
        "TURNOUT_CERTS_URL": "Where the signer's public keys are; Google's by default.",
        "TURNOUT_ADMINS": "E-mails and `domain:example.com`, separated by commas: may do "
        "everything, API keys included.",
        "TURNOUT_DEPLOYERS": "The same: may deploy, decide on rollouts and roll back.",
        "TURNOUT_VIEWERS": "The same: may look. Empty: whoever Google lets in.",
        "TURNOUT_SECRET": "Signs forms and derives repeated API keys; 32 characters or more, the "
        "same in all instances. Required.",
        "TURNOUT_ORIGINS": "Further origins that the pages are reached under, separated by commas.",
        "TURNOUT_FORWARDED_HOPS": "How many entries of `X-Forwarded-For` were written by Google; 1 "
        "on Cloud Run, else 0.",
        "TURNOUT_TOOLS": "Whose commands the pages show: `gcloud` (default) or `turnout`.",
        "K_SERVICE": "Set by Cloud Run itself.",
    },
    "Serving container": {
        "MODEL_ID": "The model; with `MODEL_PATH` required.",
        "MODEL_PATH": "`gs://BUCKET/FOLDER/` of the version's artifacts. Without it the container "
        "is the empty v0 and answers 503.",
        "MODEL_VERSION": "The version, such as `v3`.",
        "MODEL_DIGEST": "`sha256:` and 64 hex digits: what the artifacts must be.",
        "TRAINING_RUN": "The training run's number.",
        "RETRIEVAL": "`exact` (default) or `approximate`.",
        "MODEL_EXTRA_OPS": "Operations of TensorFlow that this model's graph may have beyond the "
        "allowed ones, separated by commas; set it in the model's `env`.",
        "PREPARED_DIGEST": "`sha256:` and 64 hex digits of the prepared answers; without it none "
        "are served.",
        "TRACEPARENT": "The trace that started the revision (W3C); its start is part of it.",
        "K_REVISION": "Set by Cloud Run itself.",
        "HOST": "The address to listen on; `127.0.0.1` by default, `0.0.0.0` in the image.",
        "PORT": "The port to listen on; 8080 by default.",
        "USAGE_FLUSH_S": "How often usage is written, 1 to 3600 seconds; 60 by default.",
    },
    "Preparing job": {
        "PREPARED_TOP_K": "How many answers a customer to prepare; 0 only checks the model.",
        "PREPARED_CUSTOMERS": "How many customers, the first lines of customers.txt; empty: all.",
        "MINIMUM_RECALL": "What an approximate index must reach, 0 to 1; 0.95 by default.",
        "CLOUD_RUN_TASK_COUNT": "Set by Cloud Run itself.",
        "CLOUD_RUN_TASK_INDEX": "Set by Cloud Run itself.",
    },
    "Command line": {
        "TURNOUT_DATA": "Folder of the local cloud; `.turnout` by default.",
        "TURNOUT_API_KEY": "The key that `turnout predict` sends.",
        "TURNOUT_USER": "Who is recorded as the one who asked; `USER` by default.",
        "USER": "The operating system's name of the user.",
        "TRAINING_BUCKET": "Where the example trainer uploads.",
    },
    "Traces": {
        "OTEL_TRACES_EXPORTER": "Where traces go: `otlp`, `console`, or `none` (default).",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "The collector that `otlp` sends to.",
        "OTEL_SDK_DISABLED": "`true` records nothing.",
    },
    "For libraries": {
        "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "Set where it is not set: Storage's "
        "client asks for no bucket's metadata.",
        "OPENBLAS_NUM_THREADS": "Set by the container for its own processes.",
        "CUDA_VISIBLE_DEVICES": "Set to `-1` where it is not set: TensorFlow looks for no GPU.",
        "TF_CPP_MIN_LOG_LEVEL": "Set where it is not set: TensorFlow says only what matters.",
    },
}


def page(root: Path) -> str:
    """Return the page; ValueError where it and the code do not name the same variables."""
    described = {name for section in SECTIONS.values() for name in section}
    read = variables(root)
    if described != set(read):
        raise ValueError(
            f"not described in tools/docs/settings.py: {sorted(set(read) - described)}; "
            f"described, and read nowhere: {sorted(described - set(read))}"
        )
    sections = [
        f"## {title}\n\n"
        + table(
            ["Variable", "Meaning", "Read in"],
            [[code(name), words, ", ".join(map(code, read[name]))] for name, words in one.items()],
        )
        for title, one in SECTIONS.items()
    ]
    head = generated(
        "Settings",
        "the code that reads them",
        "Environment variables are the only settings, with the same names in production and "
        "locally. In production Terraform sets them ([variables](terraform.md)); the serving "
        "container's are set by the pipeline for each revision.",
    )
    return "\n".join([head, *sections])


def variables(root: Path) -> dict[str, list[str]]:
    """Return the modules that read each environment variable, by its name."""
    found: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            for name in _names(ast.parse(file.read_text())):
                found.setdefault(name, set()).add(str(file.relative_to(root)))
    return {name: sorted(files) for name, files in sorted(found.items())}


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=container, slice=name) if _is_environment(container):
                yield from _texts(name)
            case ast.Compare(left=name, ops=[ast.In()], comparators=[container]) if _is_environment(
                container
            ):
                yield from _texts(name)
            case ast.Call(func=ast.Attribute(value=container, attr="get" | "setdefault")) if (
                _is_environment(container)
            ):
                yield from _texts(node.args[0])
            case ast.Call(args=[container, name, *_]) if _is_environment(container):
                yield from _texts(name)
            case ast.keyword(arg="envvar", value=name):
                yield from _texts(name)


def _is_environment(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    return name in _ENVIRONMENTS


def _texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        text = one.value if isinstance(one, ast.Constant) else None
        if isinstance(text, str) and _NAME.fullmatch(text) and not _WSGI.match(text):
            yield text
