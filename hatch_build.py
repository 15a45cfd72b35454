"""What is fetched when the package is built: the JavaScript of others for the app, from npm's registry, checked.

It is not kept among the sources. Without a network the package is built without it; the app takes Streamlit's own then.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 30
PACKAGES = {  # name: version, the files that are taken, the sha512 of the package
    "regl": (
        "2.1.1",
        ["dist/regl.min.js"],
        "+IOGrxl3FZ8ZM9ixCWQZzFRiRn7Rzn9bu3iFHwg/yz4tlOUQgbO4PHLgG+1ZT60zcIV8tief6Qrmyl8qcoJP0g==",
    ),
    "pub-sub-es": (
        "3.0.0",
        ["dist/index.js"],
        "pf+6yCPsOfvDMru2LnsqdKSN8XQyF5HZzmEoKBvjMk4TILMUQiq1vxI6rC92T9ErY06sLXBmC1p7JGNFVB1pUQ==",
    ),
    "regl-scatterplot": (
        "1.16.0",
        ["dist/regl-scatterplot.min.js"],
        "LSNRzihkLgaSEALZv95+w02nX1c6slJJahqHqMNY0YOkE3L6Bk1e38GJaGatW2w8PlB1tOdvq3Cj0tPPrBhpsA==",
    ),
    "tom-select": (
        "2.6.2",
        ["dist/js/tom-select.popular.min.js", "dist/css/tom-select.min.css"],
        "eiXIkk82XzzUTOVQDFpy+ZGejuqdTvMukyUyeZBQaKnqW42UoTiTZnrod/eX0rkqJEc4rZY9DZ3zdjV07i29wQ==",
    ),
}
FOLDER = "subcell_atlas/pages/javascript"


class FetchJavaScript(BuildHookInterface):
    """Puts each package's files and its licence into `FOLDER`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is not there, and let it go into the wheel."""
        folder = Path(self.root) / FOLDER
        wanted_files = {f"{name}-{release}" for name, (release, _, _) in PACKAGES.items()}
        for old in folder.glob("*"):
            if old.name.rpartition(".")[0] not in wanted_files:
                old.unlink()
        for name, (release, wanted, sha512) in PACKAGES.items():
            file = folder / f"{name}-{release}"
            places = {member: file.with_name(f"{file.name}{Path(member).suffix}") for member in wanted}
            if all(place.exists() for place in places.values()):
                continue
            try:
                found = members(fetch(f"{REGISTRY}/{name}/-/{name}-{release}.tgz", sha512))
            except OSError as exc:
                self.app.display_warning(f"{name} was not fetched ({exc}); the app will do without.")
                return
            folder.mkdir(parents=True, exist_ok=True)
            licence = found[next(n for n in found if n.upper().startswith("LICENSE"))]
            file.with_name(f"{file.name}.LICENSE").write_bytes(licence)
            for member, place in places.items():
                place.write_bytes(found[member])
        build_data["artifacts"].append(f"/{FOLDER}/*")


def fetch(address: str, sha512: str) -> bytes:
    """Return a file; raise OSError when it does not come, or is another."""
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        content = answer.read()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != sha512:
        raise OSError(f"{address} has another sha512 than it should")
    return bytes(content)


def members(package: bytes) -> dict[str, bytes]:
    """Return the files of a package of npm by their names in it."""
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        files = {
            member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers() if member.isfile()
        }
        return {name: file.read() for name, file in files.items() if file}
