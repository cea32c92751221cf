"""The API's reference as one page of HTML without a script: what /openapi.json says, and a command for each endpoint.

FastAPI's own pages load their scripts and styles from elsewhere, which a gateway in a closed network cannot.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid; }
h3 { margin: 2rem 0 .25rem; font-family: ui-monospace, monospace; }
pre { padding: .75rem; overflow-x: auto; background: light-dark(#f2f2f2, #262626); }
table { border-collapse: collapse; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
"""

#: the style is the only thing that the page may use
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_INTRODUCTION = """
<p>OpenAI's clients work as they are: set their base URL to this address with <code>/v1</code>. The whole document is
<a href="openapi.json">openapi.json</a>. The commands below run as they are once these are set:</p>
<pre>GATEWAY={gateway}
VQA_API_KEY=vqa_...   # of `vqa keys create`; any text where the gateway runs without keys</pre>
"""


def render(document: Mapping[str, Any], gateway: str) -> str:
    """Return the page; `gateway` is the address that a reader's commands use."""
    title = f"{document['info']['title']} {document['info']['version']}"
    return "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
            _INTRODUCTION.format(gateway=escape(gateway)),
            *_sections(document),
            "</body></html>",
        ]
    )


def _sections(document: Mapping[str, Any]) -> Iterator[str]:
    last = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = next(iter(operation.get("tags", [])), "others")
            if tag != last:
                last = tag
                yield f"<h2>{escape(tag)}</h2>"
            yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3>{method.upper()} {escape(path)}</h3>"
    text = "\n\n".join([operation.get("summary", ""), operation.get("description", "")])
    for paragraph in filter(None, text.split("\n\n")):
        yield f"<p>{escape(paragraph)}</p>"
    parameters = [(each["name"], each["in"], each.get("description", "")) for each in operation.get("parameters", [])]
    if bodies := ", ".join(operation.get("requestBody", {}).get("content", {})):
        parameters.append(("body", bodies, ""))
    yield _table(parameters)
    for sample in operation.get("x-codeSamples", []):
        yield f"<pre>{escape(sample['source'])}</pre>"
    yield _table((status, reply.get("description", "")) for status, reply in operation["responses"].items())


def _table(rows: Any) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table>{lines}</table>" if lines else ""
