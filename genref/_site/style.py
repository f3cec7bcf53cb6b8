"""The house style: figures drawn once in sentinel inks, so that one inline SVG serves light, dark and print.

Loaded by path in the fork server, before any program, so it imports nothing of genref.
"""

import hashlib
import inspect
import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

INK, FAINT, GROUND = "#010203", "#010204", "#010205"
SERIES = [f"#0102{10 + k}" for k in range(6)]
"""Sentinel colours: `svg` turns each into the CSS variable of the same role."""
ROLES = {INK: "currentColor", FAINT: "var(--g-faint)", GROUND: "var(--g-ground)"}
ROLES |= {colour: f"var(--g-c{k})" for k, colour in enumerate(SERIES)}
SETTINGS: Any = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=SERIES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "boxplot.boxprops.color": INK,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "figure.figsize": (4.8, 3.2),
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": FAINT,
    "hatch.color": INK,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "patch.edgecolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "genref",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def warm() -> None:
    """Loads the font and the SVG writer once, in the server, for all its children."""
    with mpl.rc_context(SETTINGS):
        figure = plt.figure()
        figure.gca().set_title("$x$")
        svg(figure, "warm", "")
        plt.close(figure)


def cells(source: str) -> list[dict[str, Any]]:
    """The cells of a percent-format tour, each with the line of its first line of text."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("# %%"):
            found.append({"kind": "markdown" if "[markdown]" in line else "code", "line": number + 1, "source": ""})
        elif found:
            if found[-1]["kind"] == "markdown":
                line = re.sub(r"^# ?", "", line)
            found[-1]["source"] += line + "\n"
    return [cell | {"source": cell["source"].rstrip() + "\n"} for cell in found if cell["source"].strip()]


ONLY = {"get_path": mpl.patches.Patch, "get_text": mpl.text.Text}
"""Methods that mean the thing drawn in one class of artists alone."""


def fingerprint(figure: Figure) -> str:
    """A hash of the numbers drawn, to six digits: what a figure says, whatever its style."""
    drawn = hashlib.sha256()
    for artist in figure.findobj():
        for method in ("get_xydata", "get_offsets", "get_array", "get_path", "get_paths", "get_text"):
            read = getattr(artist, method, None)
            if read is None or not isinstance(artist, ONLY.get(method, object)):
                continue
            value = read()
            for part in value if method == "get_paths" else [value]:
                part = getattr(part, "vertices", part)
                if isinstance(part, str):
                    drawn.update(part.encode())
                elif part is not None:
                    drawn.update(np.array2string(np.asarray(part, float), precision=6, threshold=10**9).encode())
    return drawn.hexdigest()


def drawn(function: Callable[[Any], object], name: str, alt: str) -> tuple[str, str]:
    """Draws `function(ax)` or `function(fig)` in the house style; returns the SVG and the fingerprint of its data."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.use("agg")
        mpl.rcParams.update(SETTINGS)
        figure = plt.figure()
        takes_figure = next(iter(inspect.signature(function).parameters)) == "fig"
        function(figure if takes_figure else figure.gca())
        result = svg(figure, name, alt)
        plt.close(figure)
    return result


def svg(figure: Figure, name: str, alt: str) -> tuple[str, str]:
    """A figure as inline SVG: theme variables for sentinel inks, ids of its own, text as text, alt text inside."""
    out = io.StringIO()
    for label in figure.findobj(mpl.text.Text):  # matplotlib takes the prime of formulas from a font of its own
        label.set_text(re.sub(r"\$[^$]*\$", lambda m: m[0].replace("'", "\N{PRIME}"), label.get_text()))
    with mpl.rc_context({key: SETTINGS[key] for key in ("svg.fonttype", "svg.hashsalt")}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", out.getvalue(), flags=re.S)
    prefix = "f" + hashlib.sha256(name.encode()).hexdigest()[:6] + "-"
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{prefix}{m[1]}"', text)
    text = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{prefix}{m[1]}"', text)
    text = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{prefix}{m[1]})", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub("|".join(ROLES), lambda m: ROLES[m[0]], text)
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*sans-serif", r"font: \1sans-serif", text)
    if private := re.search(r"font-family: '(?:cm\w+10|STIXNonUnicode)'[^>]*>([^<]*)<", text):
        raise ValueError(f"a formula of the figure has a sign, drawn as {private[1]!r}, in a font that no browser has")
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    width, height = (float(re.search(rf'<svg[^>]* {side}="([\d.]+)pt"', text)[1]) for side in ("width", "height"))  # type: ignore[index]
    head = f'<svg class="figure" role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}"'
    head += f' width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" style="min-width: {width * 0.8:.0f}px"'
    head += ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = re.sub(r"<svg[^>]*", head, text, count=1)
    return re.sub(r"\s*\n\s*", "\n", text).strip(), fingerprint(figure)
