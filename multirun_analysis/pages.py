"""The pages of an export: each notebook as HTML, and the index that shows all their figures.

They are read from a disk, without a network: styles are inline, no script runs, and nothing is
fetched but pictures that lie beside them. Code is folded away behind a switch.
"""

import html
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenlab.errors import without_password
from multirun_analysis import publish
from multirun_analysis.execute import Executed, Parameters
from multirun_analysis.runs import Runs

STYLE = Path(__file__).with_name("pages.css")
WIDE_INCHES = 6.5
"""From this width on a figure gets the width of the page: in half of it nobody could read it."""
BODY = """\
{% extends 'classic/base.html.j2' %}
{% block in_prompt %}{% endblock %}
{% block empty_in_prompt %}{% endblock %}
"""
VERDICTS = {"confirmed": "✓", "contradicted": "✗", "not decidable": "?"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A notebook on the index page."""

    executed: Executed
    published: Sequence[Mapping[str, str]]
    """Entries of its manifest."""

    @property
    def shown(self) -> list[Mapping[str, str]]:
        """What it has to show."""
        return [entry for entry in self.published if entry["kind"] != "missing"]

    @property
    def missing(self) -> list[str]:
        """What its figures or tables would need, each sentence once."""
        told = [entry["caption"] for entry in self.published if entry["kind"] == "missing"]
        return list(dict.fromkeys([*told, *filter(None, [self.executed.nothing])]))

    @property
    def status(self) -> str:
        """`ok`, `nothing to show` or `failed`."""
        if self.executed.error:
            return "failed"
        return "nothing to show" if self.missing and not self.shown else "ok"


def notebook_page(section: Section, runs: Runs, parameters: Parameters) -> str:
    """A notebook as executed, traceback included where it failed."""
    executed = section.executed
    failed = f'<p class="failed">{_escaped(executed.error)}</p>' if executed.error else ""
    body = (
        '<input type="checkbox" id="code">'
        f'<nav><a href="index.html">← all figures of {_escaped(runs.name)}</a>'
        '<label for="code">code</label></nav>'
        f"<main class='notebook'>{failed}{_body(executed.content)}</main>"
    )
    page = _page(f"{executed.name}: {runs.name}", body)
    return page.replace(parameters.tracking_uri, str(without_password(parameters.tracking_uri)))


def index_page(
    sections: Sequence[Section], runs: Runs, findings: Sequence[Mapping[str, Any]], folder: Path
) -> str:
    """All notebooks of an export; `folder` is where their figures are."""
    contents = "".join(
        f'<a href="#{section.executed.name}" class="{section.status.replace(" ", "-")}">'
        f"{_escaped(_title(section))}</a>"
        for section in sections
    )
    teller = next(
        (
            section.executed.name
            for section in sections
            if any(entry["kind"] == "json" for entry in section.published)
        ),
        "",
    )
    files = ", ".join(
        f'<a href="{path.relative_to(folder)}">{path.name}</a>'
        for path in sorted(folder.glob("tables/all_*.csv"))
    )
    body = (
        f'<header><p class="kicker">energy analysis</p><h1>{_escaped(runs.name)}</h1>'
        f"{publish.facts_html(runs)}</header>"
        f"<nav>{contents}</nav><main>{_claims(findings, teller)}"
        + "".join(_section(section, folder) for section in sections)
        + f"</main><footer>{publish.remarks_html(runs)}<p>All numbers behind these pages: {files}."
        "</p></footer>"
    )
    return _page(f"{runs.name}: energy analysis", body)


def _page(title: str, body: str) -> str:
    from pygments.formatters import HtmlFormatter

    style = STYLE.read_text() + HtmlFormatter(nobackground=True).get_style_defs(".highlight")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _body(content: Any) -> str:
    if content is None:
        return "<p>The notebook could not be read.</p>"
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="body.html.j2",
        extra_loaders=[DictLoader({"body.html.j2": BODY})],
        exclude_output_prompt=True,
    )
    return str(exporter.from_notebook_node(content)[0])


def _section(section: Section, folder: Path) -> str:
    name = section.executed.name
    opening = _opening(section.executed.content)
    notes = "".join(publish.missing_html(sentence) for sentence in section.missing)
    if section.executed.error:
        notes += (
            f'<p class="failed"><strong>This notebook failed.</strong> '
            f'{_escaped(section.executed.error)} <a href="{name}.html">Its traceback</a></p>'
        )
    pictures = "".join(
        _figure(entry, folder) for entry in section.shown if entry["kind"] == "figure"
    )
    tables = [entry for entry in section.shown if entry["kind"] == "table"]
    listed = "".join(
        f'<li><a href="tables/{_escaped(entry["name"])}.csv">{_escaped(entry["name"])}.csv</a> '
        f"{_escaped(entry['caption'])}</li>"
        for entry in tables
    )
    return (
        f'<section id="{name}"><h2><a href="{name}.html">{_escaped(_title(section))}</a></h2>'
        f"{opening}{notes}"
        + (f'<div class="figures">{pictures}</div>' if pictures else "")
        + (f'<ul class="tables">{listed}</ul>' if listed else "")
        + f'<p class="more"><a href="{name}.html">The whole page</a></p></section>'
    )


def _figure(entry: Mapping[str, str], folder: Path) -> str:
    name, caption = _escaped(entry["name"]), _escaped(entry["caption"])
    width, height = _size(folder / "figures" / f"{entry['name']}.png")
    shape = ' class="wide"' if width > WIDE_INCHES * publish.PRINT_DPI else ""
    shown = [round(pixels * publish.SCREEN_DPI / publish.PRINT_DPI) for pixels in (width, height)]
    return (
        f'<figure{shape}><a href="figures/{name}.png"><img src="figures/{name}.png" '
        f'alt="{caption}" width="{shown[0]}" height="{shown[1]}"></a>'
        f'<figcaption>{caption} <span class="files"><a href="figures/{name}.svg">SVG</a> '
        f'<a href="figures/{name}.png">PNG</a></span></figcaption></figure>'
    )


def _size(picture: Path) -> tuple[int, int]:
    """Width and height in pixels, from a PNG's header (its first chunk, at byte 16)."""
    with picture.open("rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return width, height


def _claims(findings: Sequence[Mapping[str, Any]], page: str) -> str:
    """The ledger; `page` is that of the notebook that wrote it."""
    if not findings:
        return ""
    counts = ", ".join(
        f"{sum(finding['verdict'] == verdict for finding in findings)} {verdict}"
        for verdict in VERDICTS
    )
    rows = "".join(_claim(finding) for finding in findings if finding["value"] is not None)
    table = (
        '<div class="scroll"><table class="claims"><thead><tr><th>claim</th><th>phase</th>'
        "<th>these runs say</th><th>verdict</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
    return (
        '<section id="findings"><h2>The paper’s claims, on these runs</h2>'
        f'<p>{counts}. <a href="{page}.html">How each was decided</a></p>'
        f"{table if rows else ''}{_silent(findings)}</section>"
    )


def _silent(findings: Sequence[Mapping[str, Any]]) -> str:
    """Claims to which these runs say nothing, by the reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding["value"] is None:
            reason = finding["reason"], finding.get("would_decide") or ""
            told = f"{finding['claim'].rstrip('.')} ({finding['section']})"
            if told not in (claims := by_reason.setdefault(reason, [])):
                claims.append(told)
    if not by_reason:
        return ""
    items = "".join(
        f"<li>{_text('; '.join(claims))}."
        f'<div class="where">{_text(reason)}. {_would_decide(command)}</div></li>'
        for (reason, command), claims in by_reason.items()
    )
    return f'<h3>Claims that these runs say nothing to</h3><ul class="silent">{items}</ul>'


def _would_decide(command: str) -> str:
    return publish.commands_html(f"Would decide it: {_text(command)}") if command else ""


def _text(text: str) -> str:
    """Escaped between tags: an apostrophe stays what it is."""
    return html.escape(text, quote=False)


def _claim(finding: Mapping[str, Any]) -> str:
    """A row of the ledger; its names are those of `claims.as_json`."""

    def small(*texts: str) -> str:
        return f'<div class="where">{", ".join(filter(None, texts))}</div>'

    text = {key: "" if value is None else _text(str(value)) for key, value in finding.items()}
    section = text.get("section", "")
    decides = _would_decide(finding.get("would_decide") or "")
    return (
        f'<tr class="{text["verdict"].replace(" ", "-")}">'
        f"<td>{text['claim']}{small(section and f'Sec. {section}', text['series'])}</td>"
        f"<td>{text['phase']}</td>"
        f"<td>{_estimate(finding)}{small(text['statistic'], _claimed(finding))}</td>"
        f'<td><span class="verdict">{VERDICTS[finding["verdict"]]} {text["verdict"]}</span>'
        f"{small(text['reason'])}{small(decides)}</td></tr>"
    )


def _estimate(finding: Mapping[str, Any]) -> str:
    """Value and interval, of which an end may be open; a dash where nothing could be told."""
    value, low, high = (finding[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    ends = "−∞" if low is None else f"{low:.3g}", "∞" if high is None else f"{high:.3g}"
    interval = "" if low is None and high is None else f" [{ends[0]}, {ends[1]}]"
    return f"<strong>{value:.3g}</strong>{interval}, n = {finding['num']}"


def _claimed(finding: Mapping[str, Any]) -> str:
    low, high = finding.get("range", (None, None))
    if low is None and high is None:
        return ""
    if high is None:
        return _text(f"claimed > {low:g}")
    return _text(f"claimed < {high:g}") if low is None else f"claimed {low:g} to {high:g}"


def _first_text(content: Any) -> list[str]:
    """Lines of the first Markdown cell."""
    cells = [] if content is None else content.cells
    return next((cell.source.splitlines() for cell in cells if cell.cell_type == "markdown"), [])


def _title(section: Section) -> str:
    headings = [line for line in _first_text(section.executed.content) if line.startswith("#")]
    return headings[0].lstrip("# ") if headings else section.executed.name


def _opening(content: Any) -> str:
    """What the notebook answers: its first paragraph."""
    from nbconvert.filters import markdown2html

    text = "\n".join(line for line in _first_text(content) if not line.startswith("#")).strip()
    return str(markdown2html(text.split("\n\n")[0])) if text else ""


def _escaped(text: str) -> str:
    return html.escape(text)
