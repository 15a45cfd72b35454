"""The app in a real browser, walked as a person would; screenshots are kept where $SCREENSHOTS says.

Needs playwright and a chromium: $CHROMIUM, /usr/bin/chromium, or playwright's own. Skips without them.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_app import HOSTILE, hostile_atlas

from subcell_atlas import query
from subcell_atlas.pages import scatter
from subcell_atlas.store import Store

sync_api = pytest.importorskip("playwright.sync_api")

__all__ = ["hostile_atlas"]

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
WAIT_MS = 60_000
PATHS = ("", "protein", "map", "functions", "sql", "about")


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=path if Path(path).exists() else None,
                args=["--no-sandbox", "--enable-unsafe-swiftshader"],
            )
        except sync_api.Error as exc:
            pytest.skip(f"no browser: {str(exc).splitlines()[0]}")
        yield found
        found.close()


def serve(uri: str) -> Iterator[str]:
    with socket.socket() as free:  # several processes of tests serve at once
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "subcell_atlas", "app", "--atlas", uri, "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    import urllib.request

    for _ in range(150):
        try:
            urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).close()
            break
        except OSError:
            time.sleep(0.2)
    yield f"http://localhost:{port}"
    process.terminate()
    process.communicate(timeout=20)


@pytest.fixture(scope="module")
def app(demo_atlas, browser) -> Iterator[str]:
    del browser  # without one nothing is served
    yield from serve(demo_atlas)


@pytest.fixture(scope="module")
def hostile_app(hostile_atlas, browser) -> Iterator[str]:
    del browser
    yield from serve(hostile_atlas)


@pytest.fixture
def page(browser) -> Iterator[sync_api.Page]:
    """A page of which nothing may fail, and from which nothing may leave this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if leaves(request.url) else None)
    yield page
    context.close()
    assert not wrong


def leaves(url: str) -> bool:
    return not re.match(r"(https?|wss?)://(localhost|127\.0\.0\.1)[:/]|data:|blob:", url)


def settle(page: sync_api.Page) -> None:
    """Wait until the script has run and what it draws is there."""
    page.wait_for_timeout(300)
    page.locator('[data-test-script-state="running"]').wait_for(state="detached")
    page.wait_for_timeout(300)


def keep(page: sync_api.Page, name: str) -> None:
    """Keep a screenshot, when somebody wants them."""
    if folder := os.environ.get("SCREENSHOTS"):
        settle(page)
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_page(page: sync_api.Page, address: str, said: str) -> None:
    page.goto(address)
    page.get_by_text(said).first.wait_for()
    settle(page)


def test_a_person_searches_goes_on_with_a_neighbor_and_returns_by_the_link(page, app, demo_atlas):
    hits = query.similar(Store.open(demo_atlas), ["DEMO003"], k=12)["gene_symbol"].to_pylist()
    page.goto(app)
    page.get_by_text("Begin with one of these").wait_for()
    box = page.get_by_role("combobox", name="Proteins")
    box.press_sequentially("demo003")  # and Enter at once
    box.press("Enter")
    page.get_by_text("Looks most like DEMO003").wait_for()
    assert "gene=DEMO003" in page.url
    address = page.url
    cards = page.locator(".cards .name")
    sync_api.expect(cards).to_have_count(12)
    assert [card.strip() for card in cards.all_inner_texts()] == hits
    pictures = page.locator(".cards img")
    sync_api.expect(pictures).to_have_count(4 + 12)
    assert all(
        picture.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 1
        for picture in pictures.all()
    )
    keep(page, "search")
    cards.first.click()
    page.get_by_text(f"Looks most like {hits[0]}").wait_for()
    page.goto(address)
    page.get_by_text("Looks most like DEMO003").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    assert Path(download.value.path()).read_text().splitlines()[1].split(",")[2].strip('"') == hits[0]


def asked(page: sync_api.Page) -> list[str]:
    """Return the names that the field holds."""
    return [name.replace("×", "").strip() for name in page.locator(".names .item").all_inner_texts()]


def test_names_are_completed_pasted_left_out_and_come_back_by_going_back(page, app):
    open_page(page, app, "Begin with one of these")
    box = page.get_by_role("combobox", name="Proteins")
    box.press_sequentially("DEMO01")
    options = page.get_by_role("option")
    sync_api.expect(options.filter(has_text="DEMO010")).to_be_visible()
    sync_api.expect(options).to_have_count(10)
    box.press("ArrowDown")
    box.press("Enter")
    page.get_by_text("Looks most like DEMO011").wait_for()
    assert asked(page) == ["DEMO011"]
    box.evaluate(
        """input => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", "DEMO003, demo004;\\nnonsense");
            input.value = "DEMO003, demo004;\\nnonsense";
            input.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }"""
    )
    page.get_by_text("Unknown gene 'nonsense'").wait_for()
    page.get_by_text("Looks most like DEMO011 + DEMO003 + DEMO004").wait_for()
    settle(page)
    assert asked(page) == ["DEMO011", "DEMO003", "demo004", "nonsense"]
    page.get_by_title("Leave it out").nth(3).click()
    page.get_by_text("Unknown gene").wait_for(state="detached")
    page.go_back()
    page.get_by_text("Unknown gene 'nonsense'").wait_for()
    settle(page)
    assert asked(page) == ["DEMO011", "DEMO003", "demo004", "nonsense"]
    page.get_by_role("link", name="Protein").click()
    one = page.get_by_role("combobox", name="Protein", exact=True)
    one.press_sequentially("DEMO005")
    one.press("Enter")
    page.get_by_role("heading", name="DEMO005").wait_for()
    assert page.url.endswith("/protein?name=DEMO005")
    one.press_sequentially("DEMO006")
    one.press("Enter")
    page.get_by_role("heading", name="DEMO006").wait_for()
    assert asked(page) == ["DEMO006"]
    page.get_by_role("link", name="Search").click()
    page.get_by_text("Begin with one of these").wait_for()
    assert asked(page) == []


def test_names_of_markup_are_completed_as_text(page, hostile_app):
    open_page(page, hostile_app, "Begin with one of these")
    box = page.get_by_role("combobox", name="Proteins")
    box.press_sequentially("<b>")
    sync_api.expect(page.get_by_role("option")).to_have_text(["<b>BOLD</b>"])
    box.press("Enter")
    page.get_by_text("Looks most like <b>BOLD</b>").wait_for()
    assert asked(page) == ["<b>BOLD</b>"]
    box.press_sequentially("<img src=x onerror=alert(1)>")
    box.press("Enter")
    page.get_by_text("Unknown gene '<img").wait_for()
    assert asked(page) == ["<b>BOLD</b>", "<img src=x onerror=alert(1)>"]


def colored(page: sync_api.Page, tmp_path: Path) -> int:
    """Return how many pixels of the plot have a color."""
    page.locator(".plot").screenshot(path=tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB")).astype(int)
    return int((np.ptp(pixels, axis=2) > 60).sum())


def marked(page: sync_api.Page) -> int:
    """Return how many pixels of the plot are marks of the query and its neighbors."""
    drawn = """canvas => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, index) => index % 4 === 3 && value > 0).length;
    }"""
    return page.locator("canvas.over").evaluate(drawn)


@pytest.mark.skipif(not scatter.is_there(), reason="the package was built without its JavaScript")
def test_the_overview_is_drawn_and_a_lasso_lists_what_it_holds(page, app, tmp_path):
    open_page(page, f"{app}/?gene=DEMO003", "Looks most like")
    page.locator('.scatter[data-drawn="40"]').wait_for()
    settle(page)
    assert colored(page, tmp_path) > 300
    assert marked(page) > 200
    keep(page, "overview")
    page.get_by_role("button", name="Lasso").click()
    box = page.locator(".plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 240, y - 190)
    page.mouse.down()
    for dx, dy in ((240, -190), (240, 190), (-240, 190), (-240, -180)):
        page.mouse.move(x + dx, y + dy, steps=5)
    page.mouse.up()
    page.get_by_text(re.compile(r"\d+ proteins selected")).wait_for()
    n = int(re.search(r"(\d+) proteins selected", page.inner_text("body")).group(1))
    assert 20 < n <= 40
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_text("Each dot is a protein").wait_for()
    page.get_by_text("Cells", exact=True).first.click()
    page.locator('.scatter[data-drawn="160"]').wait_for()
    assert "show=Cells" in page.url
    page.set_viewport_size({"width": 900, "height": 900})
    settle(page)
    assert colored(page, tmp_path) > 100  # it is drawn anew at another size
    assert marked(page) > 50


def test_a_person_walks_down_the_map_and_back(page, app, demo_atlas):
    open_page(page, f"{app}/map", "Each bar is a system")
    page.locator(".js-plotly-plot .slice, .js-plotly-plot .iciclelayer path").first.wait_for()
    keep(page, "map")
    child = page.locator('[class*="st-key-child_"] button:visible').first
    system = re.search(r"S\d+", child.inner_text()).group()
    child.click()
    page.wait_for_url(f"**/map?system={system}")
    page.locator('[class*="st-key-crumb_S0"] button').click()
    page.wait_for_url(re.compile("system=S0"))
    assert Store.open(demo_atlas).count("systems") > 1


def test_the_page_of_a_protein_leads_to_its_neighbors_and_its_functions(page, app):
    open_page(page, f"{app}/protein?name=DEMO003", "Does it change?")
    keep(page, "protein")
    links = [a.get_attribute("href") for a in page.locator("[data-testid=stLinkButton] a").all()]
    assert any("proteinatlas.org" in link for link in links)
    page.get_by_text("Why, and all of them").click()
    page.get_by_text("May do besides").wait_for()
    keep(page, "functions")


def test_a_query_is_written_and_answered(page, app):
    open_page(page, f"{app}/sql", "Tables")
    editor = page.get_by_role("textbox").first
    editor.fill("SELECT count(*) AS cells FROM cells")
    editor.press("Control+Enter")
    page.get_by_text("1 row", exact=True).wait_for()
    assert "sql=SELECT" in page.url
    editor.fill("SELECT * FROM read_text('/etc/passwd')")
    page.get_by_role("button", name="Run").click()
    page.locator("[data-testid=stAlert]").wait_for()
    assert "root:" not in page.inner_text("body")
    keep(page, "sql")


def test_a_picture_is_uploaded_and_its_neighbors_shown(page, app, demo_source, tmp_path):
    picture = demo_source.item(7).load()
    files = []
    for name, plane in picture.channels.items():
        Image.fromarray(plane).save(tmp_path / f"cell_{name}.png")
        files.append(tmp_path / f"cell_{name}.png")
    open_page(page, f"{app}/?by=Picture", "A file with all channels")
    page.set_input_files("input[type=file]", files)
    page.get_by_text("What the encoder sees").wait_for()
    page.get_by_text("Looks most like").wait_for()
    keep(page, "picture")
    (tmp_path / "no.png").write_bytes(b"MZ\x90 not a picture")
    page.reload()
    page.get_by_text("A file with all channels").first.wait_for()
    page.set_input_files("input[type=file]", tmp_path / "no.png")
    page.get_by_text("cannot be decoded").wait_for()


def test_names_full_of_markup_are_shown_as_text(page, hostile_app):
    open_page(page, f"{hostile_app}/?gene=A_b_c", "Looks most like")
    for name in HOSTILE[:3]:
        page.get_by_text(name, exact=True).first.wait_for()
    for path in ("map", "protein?name=A_b_c", "about"):
        page.goto(f"{hostile_app}/{path}")
        settle(page)
        assert page.locator("b:text-is('BOLD')").count() == 0
        assert page.locator("img[src*=picture]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_every_page_fits_a_telephone(browser, app, path, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{app}/{path}{'?gene=DEMO003' if not path else '?name=DEMO003' if path == 'protein' else ''}")
    page.get_by_text("encoder demo").first.wait_for()
    settle(page)
    keep(page, f"small_{path or 'search'}_{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "Traceback" not in page.inner_text("body")
    context.close()


def test_who_asks_across_sites_or_from_outside_is_refused(app):
    import requests

    port = app.rsplit(":", 1)[1]
    refused = requests.put(f"{app}/_stcore/upload_file/x/y", files={"f": b"x"}, timeout=10)
    assert refused.status_code in (400, 403)
    listening = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True).stdout
    hexed = f":{int(port):04X} "
    places = [line.split()[1] for line in listening.splitlines() if hexed in line and line.split()[3] == "0A"]
    assert places
    assert all(place.split(":")[0] in ("0100007F", "0" * 24 + "01000000") for place in places)
