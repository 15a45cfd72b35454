"""The app in a browser, on an atlas as large as the Human Protein Atlas's: how soon it answers, and ten users at once.

Run: .venv/bin/python benchmarks/app.py [--atlas FOLDER] [--users N] [--seconds S]

Needs playwright and a chromium ($CHROMIUM, else /usr/bin/chromium, else playwright's own). Without --atlas one of
13,000 proteins and 200,000 cells is made, which takes ten minutes on two cores. The browser draws with software. Beside
the app's overview stands plain `st.plotly_chart` of the same points.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app_atlas import make_atlas
from playwright.async_api import Browser, Page, async_playwright

from subcell_atlas.store import Store

ROOT = Path(__file__).parents[1]
ARGUMENTS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
WAIT_MS = 120_000
LOOKS_S = 4.0  # a person looks at an answer before the next question
WATCH = """(event) => {  // from the click or the key until other neighbors are painted
  const named = () => {
    const hosts = [...document.querySelectorAll('.st-key-hits *')].filter((element) => element.shadowRoot);
    return hosts[0]?.shadowRoot.querySelector('.name')?.textContent;
  };
  window.waited = undefined;
  document.addEventListener(event, () => {
    const began = performance.now(), before = named();
    const look = () => requestAnimationFrame(() => {
      if (named() === before) look();
      else requestAnimationFrame(() => { window.waited = performance.now() - began; });
    });
    look();
  }, { capture: true, once: true });
}"""
PLOTLY = """
import pyarrow as pa, plotly.graph_objects as go, streamlit as st
from subcell_atlas.store import Store
@st.cache_resource
def read(table):
    rows = Store.open({uri!r}).read(table, ["x", "y"])
    return rows["x"].to_numpy(), rows["y"].to_numpy()
x, y = read(st.query_params.get("table", "proteins"))
figure = go.Figure(go.Scattergl(x=x, y=y, mode="markers", marker={{"size": 3}}))
figure.update_layout(height=430, dragmode="lasso")
event = st.plotly_chart(figure, on_select="rerun", key="c")
st.markdown(f"selected {{len(event.selection.points)}}")
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas")
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = chosen.atlas or str(Path(folder) / "atlas")
        if not chosen.atlas:
            make_atlas(uri, proteins=13_000, cells=200_000)
        plain = Path(folder) / "plain.py"
        plain.write_text(PLOTLY.format(uri=uri))
        with served(ROOT / "app.py", uri) as (app, process), served(plain, uri) as (plotly, _):
            asyncio.run(measure(app, plotly, process, uri, chosen))


@contextmanager
def served(script: Path, uri: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a script; yield its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true", f"--server.port={port}"]
    environment = {**os.environ, "SUBCELL_ATLAS": uri, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            time.sleep(0.2)
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()


async def measure(
    app: str, plotly: str, process: subprocess.Popen[bytes], uri: str, chosen: argparse.Namespace
) -> None:
    """Print what a person waits for, and what ten wait for."""
    names = Store.open(uri).read("proteins", ["gene_symbol"])["gene_symbol"].to_pylist()
    async with async_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        path = chromium if Path(chromium).exists() else None
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        times: dict[str, list[float]] = {}
        for repeat in range(chosen.repeats + 1):
            found = await walk(browser, app, random.Random(repeat).sample(names, 4))
            found |= await plain_plotly(browser, plotly)
            if repeat == 0:
                print("first of all, when nothing is read yet:", {name: round(s, 2) for name, s in found.items()})
                continue
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds)
        for name, seconds in times.items():
            print(f"{name}: {statistics.median(seconds):.2f} s (median of {len(seconds)}; worst {max(seconds):.2f})")
        await browser.close()
    await many_users(app, process, names, users=chosen.users, seconds=chosen.seconds)


async def walk(browser: Browser, app: str, names: list[str]) -> dict[str, float]:
    """Walk through the app once in a fresh context whose files are cached; return how long each step took."""
    times = {}
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await page.goto(f"{app}/about")  # the files of Streamlit are in the browser's cache
    await page.get_by_text("About this atlas").wait_for(timeout=WAIT_MS)
    began = time.perf_counter()
    await page.goto(app)
    await page.get_by_text("Begin with one of these").wait_for(timeout=WAIT_MS)
    times["first page with content"] = time.perf_counter() - began
    await page.locator(".scatter[data-drawn]").wait_for(timeout=WAIT_MS)
    times["13,000 proteins drawn"] = time.perf_counter() - began
    times["lasso over proteins to list"] = await lasso(page, "proteins selected")
    await page.goto(app)
    await page.locator(".scatter[data-drawn]").wait_for(timeout=WAIT_MS)
    await settle(page)
    await page.get_by_role("combobox", name="Proteins").press_sequentially(names[0], delay=30)
    times["search by a name that is typed"] = await waited(page, "keydown", page.keyboard.press("Enter"))
    await page.get_by_text(f"Looks most like {names[0]}").wait_for(timeout=WAIT_MS)
    await page.locator(".scatter[data-drawn]").wait_for(timeout=WAIT_MS)
    hit = page.locator(".cards .name").first
    await hit.wait_for(timeout=WAIT_MS)
    await settle(page)
    name = (await hit.inner_text()).strip()
    times["search by a click on a neighbor"] = await waited(page, "click", hit.click())
    await page.get_by_text(f"Looks most like {name}").wait_for(timeout=WAIT_MS)
    await settle(page)
    began = time.perf_counter()
    await page.get_by_text("Cells", exact=True).first.click()
    await page.locator('.scatter[data-drawn]:not([data-drawn="13000"])').wait_for(timeout=WAIT_MS)
    times["200,000 cells drawn"] = time.perf_counter() - began
    times["lasso over cells to list"] = await lasso(page, "selected")
    await page.goto(f"{app}/map")
    child = page.locator('[class*="st-key-child_"] button').first
    await child.wait_for(timeout=WAIT_MS)
    await settle(page)
    before = page.url
    began = time.perf_counter()
    await child.click()
    await page.wait_for_function("url => location.href !== url", arg=before, timeout=WAIT_MS)
    await page.locator('[class*="st-key-crumb_"] button').first.wait_for(timeout=WAIT_MS)
    times["one level down the map"] = time.perf_counter() - began
    began = time.perf_counter()
    await page.goto(f"{app}/protein?name={names[1]}")
    await page.get_by_text("Does it change?").wait_for(timeout=WAIT_MS)
    times["page of a protein"] = time.perf_counter() - began
    await context.close()
    return times


async def waited(page: Page, event: str, acts: Awaitable[None]) -> float:
    """Return the seconds from a click or a key, by which a person asks, until other neighbors are painted."""
    await page.evaluate(WATCH, event)
    await acts
    await page.wait_for_function("window.waited", timeout=WAIT_MS)
    return float(await page.evaluate("window.waited")) / 1000


async def settle(page: Page) -> None:
    """Wait until the page is done with its last run."""
    await page.wait_for_timeout(300)
    await page.locator('[data-test-script-state="running"]').wait_for(state="detached", timeout=WAIT_MS)
    await page.wait_for_timeout(700)


async def lasso(page: Page, said: str) -> float:
    """Draw around the middle of the overview; return how long it takes until the selection is listed."""
    await settle(page)
    await page.get_by_role("button", name="Lasso").click()
    box = await page.locator(".plot").bounding_box()
    assert box is not None
    x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] / 4
    await draw_around(page, x, y, r)
    began = time.perf_counter()
    await page.get_by_text(said).first.wait_for(timeout=WAIT_MS)
    return time.perf_counter() - began


async def draw_around(page: Page, x: float, y: float, r: float) -> None:
    """Draw a square with the mouse, 2 r wide."""
    await page.mouse.move(x - r, y - r)
    await page.mouse.down()
    for dx, dy in ((r, -r), (r, r), (-r, r), (-r, -0.9 * r)):
        await page.mouse.move(x + dx, y + dy, steps=5)
    await page.mouse.up()


async def plain_plotly(browser: Browser, address: str) -> dict[str, float]:
    """Do the same with `st.plotly_chart`; return how long it took."""
    times = {}
    for table, n in (("proteins", "13,000"), ("cell_places", "200,000")):
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        await page.goto(address)
        await page.locator(".js-plotly-plot .gl-canvas").first.wait_for(timeout=WAIT_MS)
        began = time.perf_counter()
        await page.goto(f"{address}/?table={table}")
        await page.locator(".js-plotly-plot .gl-canvas").first.wait_for(timeout=WAIT_MS)
        await page.get_by_text("selected 0").wait_for(timeout=WAIT_MS)
        times[f"plotly: {n} drawn"] = time.perf_counter() - began
        await page.wait_for_timeout(1500)
        box = await page.locator(".js-plotly-plot").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await draw_around(page, x, y, box["height"] / 4)
        began = time.perf_counter()
        await page.wait_for_function("!document.body.innerText.includes('selected 0')", timeout=WAIT_MS)
        times[f"plotly: lasso over {n} to list"] = time.perf_counter() - began
        await context.close()
    return times


async def many_users(app: str, process: subprocess.Popen[bytes], names: list[str], *, users: int, seconds: int) -> None:
    """Let users search, each in a browser's context of its own; print the slowest answer, errors and memory."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    before = memory_mb(process.pid)
    ends, waits, errors = time.monotonic() + seconds, [], []
    tasks = [user(app, names, random.Random(i), ends, waits, errors, BackMsg, ForwardMsg) for i in range(users)]
    halves = asyncio.create_task(memory_after(process.pid, seconds / 2))
    await asyncio.gather(*tasks)
    middle = await halves
    waits.sort()
    print(
        f"{users} users for {seconds} s, each asking again {LOOKS_S:.0f} s after the answer: {len(waits)} answers, "
        f"{len(errors)} errors, median {statistics.median(waits):.2f} s, slowest {waits[-1]:.2f} s"
    )
    print(
        f"memory of the server: {before:.0f} MB before, {middle:.0f} in the middle, {memory_mb(process.pid):.0f} after"
    )
    if errors:
        print("first error:", errors[0])


async def memory_after(pid: int, seconds: float) -> float:
    """Return the memory of a process after a while."""
    await asyncio.sleep(seconds)
    return memory_mb(pid)


async def user(
    app: str, names: list[str], chance: random.Random, ends: float, waits: list[float], errors: list[str],
    back_msg: Any, forward_msg: Any,
) -> None:  # fmt: skip
    """Ask again and again over Streamlit's own protocol: a browser's work is its user's, not the server's."""
    import websockets

    address = app.replace("http", "ws") + "/_stcore/stream"
    await asyncio.sleep(LOOKS_S * chance.random())
    async with websockets.connect(address, max_size=None, origin=app) as socket_:
        while time.monotonic() < ends:
            message = back_msg()
            message.rerun_script.query_string = f"gene={chance.choice(names)}"
            began = time.perf_counter()
            await socket_.send(message.SerializeToString())
            while True:
                received = forward_msg()
                received.ParseFromString(await asyncio.wait_for(socket_.recv(), 60))
                kind = received.WhichOneof("type")
                if kind == "delta" and received.delta.new_element.WhichOneof("type") == "exception":
                    errors.append(received.delta.new_element.exception.message)
                if kind == "script_finished":
                    break
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(LOOKS_S)


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


if __name__ == "__main__":
    main()
