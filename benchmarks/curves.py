"""Plot the log of a training, or of several.

    python benchmarks/curves.py LOG.csv … [--out curves.html]

Means over each epoch; losses of weight 0 are left out. The page is one file that a browser opens without a network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

LINES = {
    "reconstruction": "reconstruction loss",
    "cell": "cell loss (NT-Xent)",
    "protein": "protein loss (SupCon)",
    "learning_rate": "learning rate",
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("curves.html"))
    args = parser.parse_args()
    figure = plot({str(path): pd.read_csv(path).groupby("epoch").mean() for path in args.logs})
    figure.write_html(args.out, include_plotlyjs=True)
    print(f"Written: {args.out}")


def plot(logs: dict[str, pd.DataFrame]) -> go.Figure:
    """Return one panel for each kind of loss and for the learning rate, one line for each log."""
    kinds = [kind for kind in LINES if any(log[kind].notna().any() for log in logs.values())]
    titles = [LINES[kind] for kind in kinds]
    figure = make_subplots(rows=1, cols=len(kinds), subplot_titles=titles, horizontal_spacing=0.2 / len(kinds))
    for number, (name, log) in enumerate(logs.items()):
        color = qualitative.Plotly[number % len(qualitative.Plotly)]
        for column, kind in enumerate(kinds, start=1):
            line = go.Scatter(
                x=log.index,
                y=log[kind],
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                mode="lines",
                line={"color": color},
            )
            figure.add_trace(line, row=1, col=column)
    figure.update_xaxes(title_text="epoch")
    figure.update_layout(
        template="plotly_white",
        height=360,
        width=400 * len(kinds),
        legend={"orientation": "h", "y": -0.25},
        margin={"t": 40},
    )
    return figure


if __name__ == "__main__":
    main()
