"""A report of one page: self-contained HTML from plain numbers and pictures, and how it was made."""

import platform
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "deepspeed", "webdataset", "zarr")

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1b1f;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:1rem 0} 
th,td{padding:.3rem .8rem;border-bottom:1px solid #e3e3e8;text-align:right}
th:first-child,td:first-child{text-align:left} tr.best td{background:#eaf6ec} tr.quiet td{color:#777}
figure{margin:1rem 0} img{max-width:100%} figcaption,p.note{color:#555;font-size:.9rem} code{background:#f3f3f6}
@media (prefers-color-scheme:dark){body{background:#16161a;color:#e6e6ea} th,td{border-color:#333}
tr.best td{background:#1d3a24} figcaption,p.note{color:#aaa} code{background:#26262c} img{background:#fff}}
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under headings; `best` and `quiet` are the numbers of rows that stand out or step back."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None
    quiet: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG and the sentence below it."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, in order."""

    heading: str
    blocks: Sequence[str | Table | Picture]
    """A string is a paragraph."""


def html_report(*, title: str, summary: str, sections: Sequence[Section], provenance: Mapping[str, str]) -> str:
    """The whole page, with every picture inside it."""
    body = "".join(
        f"<h2>{escape(section.heading)}</h2>" + "".join(_block(block) for block in section.blocks)
        for section in sections
    )
    origin = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in provenance.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{escape(summary)}</p>{body}"
        f"<h2>How this was made</h2><table>{origin}</table></body></html>\n"
    )


def provenance() -> dict[str, str]:
    """The command, the code, the machine and the versions of this process."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "command": " ".join(sys.argv),
        "commit": commit or "not in a git checkout",
        "machine": device,
        "python": platform.python_version(),
    } | {name: version(name) for name in PACKAGES}


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _block(block: str | Table | Picture) -> str:
    if isinstance(block, str):
        return f'<p class="note">{escape(block)}</p>'
    if isinstance(block, Picture):
        data = b64encode(block.png).decode("ascii")
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in table.headings)
    rows = []
    for number, cells in enumerate(table.rows):
        kind = "best" if number == table.best else "quiet" if number in table.quiet else ""
        rows.append(f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
