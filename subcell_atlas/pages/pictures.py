"""Cells in pseudo-colour, and the switches of their channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from PIL import Image

from subcell_atlas.images.thumbnails import COLORS, draw_strip
from subcell_atlas.pages.reading import Cell

__all__ = ["View", "choose_view", "draw_icon", "whole_view"]

SWITCHES = {
    "microtubules": ":red[■] Microtubules",
    "er": ":orange[■] ER",
    "nucleus": ":blue[■] Nucleus",
    "protein": ":green[■] Protein",
}


@dataclass(frozen=True)
class View:
    """How cells are shown: the channels of their thumbnails, in order, and which of them."""

    channels: tuple[str, ...]
    shown: tuple[str, ...]

    def picture(self, cells: Sequence[Cell]) -> bytes:
        """Return cells side by side as JPEG, in HPA's colours; gray when no channel has a colour."""
        return draw_cells(tuple(cell.thumbnail for cell in cells), self.channels, self.shown)


def whole_view(channels: Sequence[str]) -> View:
    """Show every channel that has a colour."""
    return View(tuple(channels), tuple(channel for channel in channels if channel in COLORS))


def choose_view(channels: Sequence[str]) -> View:
    """Let a person choose among the channels that have a colour, and keep the choice in the address; none means all."""
    whole = whole_view(channels)
    colored = list(whole.shown)
    if not colored:
        return whole
    wanted = st.query_params.get("channels", "").split(",")
    chosen = st.pills(
        "Channels",
        colored,
        selection_mode="multi",
        default=[channel for channel in colored if channel in wanted] or colored,
        format_func=lambda channel: SWITCHES[channel],
        key="channel_switches",
    )
    chosen = chosen or colored
    if len(chosen) < len(colored):
        st.query_params["channels"] = ",".join(chosen)
    else:
        st.query_params.pop("channels", None)
    return View(whole.channels, tuple(channel for channel in colored if channel in chosen))


@st.cache_data(show_spinner=False, max_entries=2000)
def draw_cells(thumbnails: tuple[bytes, ...], channels: tuple[str, ...], shown: tuple[str, ...]) -> bytes:
    """Return what `View.picture` does, kept."""
    return draw_strip(thumbnails, channels, show=shown)


def draw_icon() -> Image.Image:
    """Draw the app's icon, a cell. Without one, Streamlit gets a page's icon from a server of Google."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    icon = np.zeros((64, 64, 4), np.uint8)
    icon[np.hypot(x, y) < 0.95] = (20, 24, 32, 255)
    icon[abs(np.hypot(x, y) - 0.72) < 0.14] = (60, 220, 90, 255)
    icon[np.hypot(x - 0.12, y + 0.05) < 0.36] = (70, 110, 255, 255)
    return Image.fromarray(icon)
