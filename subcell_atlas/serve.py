"""Starting the app: `streamlit run app.py` with the atlas chosen and settings that keep it private."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .errors import AtlasError
from .store import Store

__all__ = ["run_app"]

SETTINGS = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": "false",
    "runner.magicEnabled": "false",
    "runner.postScriptGC": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "50",
    "theme.light.primaryColor": "#2b6c99",  # Streamlit's own red would look like a channel
    "theme.dark.primaryColor": "#5aa5d6",
}


def run_app(uri: str, *, port: int, host: str) -> None:
    """Serve the app for the atlas at `uri` until it is interrupted; this process becomes the server."""
    store = Store.open(uri)
    here = Path(__file__).parent
    script = next((path for path in (here.parent / "app.py", here / "app" / "app.py") if path.is_file()), None)
    if script is None:
        raise AtlasError("app.py is not where this package is installed. Install it again: pip install subcell-atlas")
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    options += [f"--server.port={port}", f"--server.address={host}"]
    environment = {**os.environ, "SUBCELL_ATLAS": store.uri}
    command = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # so that signals reach the server itself
    subprocess.run(command, env=environment)
