// Points in the plane, drawn by regl-scatterplot. Python puts the libraries' code in place of LIBRARIES.
//
// The geometry comes once, as bytes; which points are to be marked comes from another component (scatter_marks.js), as
// often as that changes. What a person selects goes back as {point: index} or {polygon: [x, y, …]}.

const LIBRARIES = {};
const RING = 7, STAR = 9; // px

const plots = (globalThis.subcellAtlasPlots ??= new Map());

function load() {
  const run = async (code) => {
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    try {
      return await import(url);
    } finally {
      URL.revokeObjectURL(url);
    }
  };
  const plain = (code) => run(`(function () {${code}\n}).call(globalThis);`);
  return (globalThis.subcellAtlasScatter ??= (async () => {
    globalThis.createPubSub = (await run(LIBRARIES["pub-sub-es"])).default;
    await plain(LIBRARIES["regl"]);
    await plain(LIBRARIES["regl-scatterplot"]);
    return globalThis.createScatterplot.default;
  })());
}

// Bytes: length of a JSON header (uint32), the header, zeros up to a multiple of 4; x and y (float32) of each point, the
// index of its name (uint32) and of its color (uint8).
function unpack(bytes) {
  const copy = bytes.slice();
  const length = new DataView(copy.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(copy.subarray(4, 4 + length)));
  let at = (4 + length + 3) & ~3;
  const take = (Kind) => {
    const found = new Kind(copy.buffer, at, header.n);
    at += header.n * Kind.BYTES_PER_ELEMENT;
    return found;
  };
  return { ...header, x: take(Float32Array), y: take(Float32Array), name: take(Uint32Array), color: take(Uint8Array) };
}

class Plot {
  constructor(root, data, createScatterplot, say) {
    Object.assign(this, { root, data, say, marks: { rings: [], stars: [] } });
    this.canvas = root.querySelector("canvas.points");
    this.over = root.querySelector("canvas.over");
    this.tip = root.querySelector(".tip");
    const { width, height } = root.querySelector(".plot").getBoundingClientRect();
    this.scatter = createScatterplot({
      canvas: this.canvas, width, height, pointSize: data.n > 50000 ? 1.5 : data.n > 4000 ? 3 : 6,
      opacity: data.n > 50000 ? 0.5 : 0.85, pointColor: data.colors, colorBy: "valueA", lassoInitiator: false,
      pointSizeSelected: 1, pointOutlineWidth: 1, lassoMinDelay: 8, lassoMinDist: 3, actionKeyMap: { lasso: "shift" },
      pointColorActive: data.highlight, backgroundColor: this.background(),
    });
    this.scatter.subscribe("view", () => this.drawMarks());
    this.scatter.subscribe("pointOver", (i) => this.hover(i));
    this.scatter.subscribe("pointOut", () => this.hover());
    this.scatter.subscribe("lassoEnd", ({ coordinates }) => this.lasso(coordinates));
    this.scatter.subscribe("select", ({ points }) => this.select(points));
    this.scatter.subscribe("deselect", () => this.tell(null));
    for (const button of root.querySelectorAll("button")) button.onclick = () => this.press(button);
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(root.querySelector(".plot"));
    this.ready = this.scatter.draw({ x: data.x, y: data.y, valueA: data.color })
      .then(() => {
        if (this.gone) return;
        this.drawn = true;
        this.drawMarks();
        root.dataset.drawn = String(data.n);
      });
  }

  background() {
    return getComputedStyle(this.root).getPropertyValue("--st-background-color").trim() || "#ffffff";
  }

  press(button) {
    if (button.name === "reset") return this.scatter.reset();
    if (button.name === "clear") return this.scatter.deselect();
    const lasso = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(lasso));
    this.scatter.set({ mouseMode: lasso ? "lasso" : "panZoom" });
  }

  resize() {
    const { width, height } = this.root.querySelector(".plot").getBoundingClientRect();
    if (!width || (width === this.width && height === this.height)) return;
    [this.width, this.height] = [width, height];
    Promise.resolve(this.scatter.set({ width, height })).then(() => this.later(() => this.drawMarks()));
  }

  later(does) { // when the library has drawn at its new size
    requestAnimationFrame(() => requestAnimationFrame(does));
  }

  hover(i) {
    this.tip.hidden = i === undefined;
    if (i === undefined) return;
    const [x, y] = this.scatter.getScreenPosition(i) ?? [0, 0];
    this.tip.textContent = this.data.names[this.data.name[i]];
    this.tip.style.left = `${Math.min(x + 10, this.width - this.tip.offsetWidth)}px`;
    this.tip.style.top = `${Math.max(y - 30, 0)}px`;
  }

  lasso(coordinates) { // the points inside are told by Python
    this.lassoed = performance.now();
    this.tell({ polygon: coordinates.flat().map((value) => Math.round(value * 1e4) / 1e4) });
  }

  select(points) { // of a lasso too, before its end is told; and of the click that a short lasso ends with
    if (points.length === 1) {
      setTimeout(() => performance.now() - (this.lassoed ?? -1e9) > 300 && this.tell({ point: points[0] }), 60);
    }
  }

  tell(selection) {
    const text = JSON.stringify(selection);
    if (text === this.told) return;
    this.told = text;
    this.say(selection);
  }

  mark(marks) {
    this.marks = marks;
    this.ready.then(() => this.drawMarks());
  }

  drawMarks() {
    if (!this.drawn || this.gone) return;
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.root.querySelector(".plot").getBoundingClientRect();
    [this.over.width, this.over.height] = [width * ratio, height * ratio];
    const pen = this.over.getContext("2d");
    pen.scale(ratio, ratio);
    [pen.strokeStyle, pen.fillStyle, pen.lineWidth] = [this.data.highlight, this.data.highlight, 2];
    for (const i of this.marks.rings) {
      const [x, y] = this.scatter.getScreenPosition(i) ?? [-99, -99];
      pen.beginPath();
      pen.arc(x, y, RING, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.strokeStyle = this.background();
    for (const i of this.marks.stars) {
      const [x, y] = this.scatter.getScreenPosition(i) ?? [-99, -99];
      pen.beginPath();
      for (let k = 0; k < 10; k++) {
        const [r, a] = [k % 2 ? STAR * 0.45 : STAR, (k * Math.PI) / 5 - Math.PI / 2];
        pen.lineTo(x + r * Math.cos(a), y + r * Math.sin(a));
      }
      pen.closePath();
      pen.fill();
      pen.stroke();
    }
  }

  destroy() {
    this.gone = true;
    this.resized.disconnect();
    this.scatter.destroy();
  }
}

function markUp(root, data) {
  root.querySelector(".plot").style.height = `${data.height}px`;
  const legend = root.querySelector(".legend");
  legend.replaceChildren(...data.labels.map((label, i) => {
    const item = document.createElement("span");
    const dot = document.createElement("i");
    dot.style.background = data.colors[i];
    item.append(dot, label);
    return item;
  }));
}

export default function ({ parentElement, data, setStateValue }) {
  const root = parentElement.querySelector(".scatter");
  const unpacked = unpack(data);
  const name = unpacked.plot;
  const before = plots.get(name);
  if (before && before.root === root && before.data.mark === unpacked.mark) {
    before.say = (selection) => setStateValue("selection", selection);
    return;
  }
  let plot;
  markUp(root, unpacked);
  let gone = false;
  load().then((createScatterplot) => {
    if (gone) return;
    const there = plots.get(name); // another plot, or marks that came meanwhile
    there?.destroy?.();
    plot = new Plot(root, unpacked, createScatterplot, (selection) => setStateValue("selection", selection));
    if (there?.marks) plot.mark(there.marks);
    plots.set(name, plot);
  }).catch((error) => {
    root.querySelector(".tip").hidden = false;
    root.querySelector(".tip").textContent = `The overview cannot be drawn here: ${error.message}`;
  });
  return () => {
    gone = true;
    plot?.destroy();
    if (plot && plots.get(name) === plot) plots.set(name, { marks: plot.marks });
  };
}
