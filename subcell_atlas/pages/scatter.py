"""Many points in the plane, to move about in and to select from with a lasso; drawn by regl-scatterplot (WebGL).

The geometry goes to the browser once: its message is the same at every run of the page, so Streamlit sends no more than
its hash. What is marked goes in a small message of its own.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from subcell_atlas.pages import installed

__all__ = ["Points", "draw_points", "is_there", "pack"]

HERE = Path(__file__).parent
LIBRARIES = ("regl", "pub-sub-es", "regl-scatterplot")
HEIGHT = 460  # px, of the plot


@dataclass(frozen=True)
class Points:
    """What is drawn: `places` (n, 2), the name and the color of each as indices; content told apart by `mark`."""

    places: np.ndarray
    name_of: np.ndarray
    names: Sequence[str]
    color_of: np.ndarray
    colors: Sequence[str]
    labels: Sequence[str]
    mark: str


def is_there() -> bool:
    """Tell whether the libraries are installed; without them Plotly draws the overview."""
    return all(installed.file_of(name, "js") for name in LIBRARIES)


@st.cache_resource(show_spinner=False)
def component_code() -> str:
    """Return our JavaScript with that of the libraries in it."""
    return installed.put_into((HERE / "scatter.js").read_text("utf-8"), LIBRARIES)


def scaled(places: np.ndarray) -> np.ndarray:
    """Return places (n, 2) within -1 and 1, shape kept."""
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-9) * 0.96


def pack(points: Points, *, plot: str, highlight: str) -> bytes:
    """Return points as the bytes that scatter.js unpacks."""
    header = {
        "plot": plot, "mark": points.mark, "n": len(points.places), "names": list(points.names), "height": HEIGHT,
        "colors": list(points.colors), "labels": list(points.labels), "highlight": highlight,
    }  # fmt: skip
    text = json.dumps(header).encode()
    places = scaled(points.places).astype("<f4")
    return b"".join(
        (
            struct.pack("<I", len(text)), text, b"\0" * (-(4 + len(text)) % 4), places[:, 0].tobytes(),
            places[:, 1].tobytes(), points.name_of.astype("<u4").tobytes(), points.color_of.astype("u1").tobytes(),
        )
    )  # fmt: skip


def draw_points(
    points: Points, *, plot: str, highlight: str, stars: Sequence[int] = (), rings: Sequence[int] = ()
) -> np.ndarray:
    """Draw points; return the indices (n,) of those that a person selected.

    stars, rings: indices of points to mark. plot: tells one drawing of the page from another.
    """
    html, css = ((HERE / f"scatter.{kind}").read_text("utf-8") for kind in ("html", "css"))
    draw = st.components.v2.component("subcell_atlas_scatter", html=html, css=css, js=component_code())
    mark = st.components.v2.component("subcell_atlas_marks", js=(HERE / "scatter_marks.js").read_text("utf-8"))
    key = f"{plot}_{hashlib.sha256(points.mark.encode()).hexdigest()[:8]}"
    state = draw(
        key=key,
        data=pack(points, plot=plot, highlight=highlight),
        on_selection_change=lambda: None,
    )
    mark(key=f"{key}_marks", data={"plot": plot, "stars": list(stars), "rings": list(rings)}, height=1)
    return selected(points, state.selection)


def selected(points: Points, selection: Any) -> np.ndarray:
    """Return the indices of the points that a selection in the browser means; none when it is not understood."""
    from skimage.measure import points_in_poly

    nothing = np.empty(0, np.int64)
    if not isinstance(selection, dict):
        return nothing
    try:
        if "point" in selection:
            index = int(selection["point"])
            return np.array([index]) if 0 <= index < len(points.places) else nothing
        corners = np.asarray(selection.get("polygon", ()), np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return nothing
    if len(corners) < 3 or not np.isfinite(corners).all():
        return nothing
    return np.flatnonzero(points_in_poly(scaled(points.places), corners))
