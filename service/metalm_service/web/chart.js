// Curves over a logarithmic axis, as SVG: its lines are styled by the style sheet, its values told to
// those who do not see them.

const NS = "http://www.w3.org/2000/svg";
const MARGIN = { left: 40, right: 14, top: 26, bottom: 36 };
const STEPS = [0.5, 1, 2, 5, 10]; // nats; no loss of a guess among 2^31 is above 25
const MOST_LINES = 6;
const UNITS = { position: "position in the sequence", exposure: "times the element was heard before" };

export class Chart {
  constructor({ chart, list, table }) {
    Object.assign(this, { chart, list, table });
    this.place = -1;
    this.drawn = null;
    new ResizeObserver(() => this.draw()).observe(chart);
    chart.addEventListener("pointermove", (event) => this.point(event));
    chart.addEventListener("pointerdown", (event) => this.point(event));
    chart.addEventListener("pointerleave", () => this.look(-1));
    chart.addEventListener("blur", () => this.look(-1));
    chart.addEventListener("keydown", (event) => this.key(event));
    table.addEventListener("toggle", () => this.tabulate());
  }

  show(drawn, ladder) {
    this.drawn = { ...drawn, curves: drawn.curves.filter((curve) => ladder || !curve.ladder) };
    this.place = -1;
    this.chart.classList.remove("old");
    this.legend();
    this.draw();
    this.look(-1);
    this.tabulate();
    this.chart.setAttribute("aria-valuemax", Math.max(0, drawn.bins.length - 1));
  }

  // What is drawn is of something else by now.
  age() {
    this.chart.classList.add("old");
  }

  draw() {
    const { width, height } = this.chart.getBoundingClientRect();
    if (!this.drawn || width < MARGIN.left + MARGIN.right + 20) return;
    const { bins, curves, by } = this.drawn;
    const end = Math.max(2, ...bins.map(({ x, to }) => (by === "position" ? to : x)));
    const highest = Math.max(0.5, ...curves.flatMap(({ values }) => values.filter((value) => value !== null)));
    const top = Math.ceil(highest * 2.1) / 2;
    const across = width - MARGIN.left - MARGIN.right;
    const down = height - MARGIN.top - MARGIN.bottom;
    const begin = by === "position" && bins[0].x > 8 ? bins[0].x / 1.15 : 1;
    this.x = (value) => MARGIN.left + (across * Math.log(value / begin)) / Math.log(end / begin);
    this.y = (value) => MARGIN.top + down * (1 - value / top);
    const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    svg.append(this.axes(width, height, begin, end, top, by));
    if (!this.drawn.exact) svg.append(this.bracket());
    for (const curve of curves.toReversed()) svg.append(this.curve(curve));
    this.cross = made("g", { class: "cross" });
    svg.append(this.cross);
    this.chart.replaceChildren(svg);
  }

  axes(width, height, begin, end, top, by) {
    const axes = made("g", { class: "axes" });
    const step = STEPS.find((step) => top / step <= MOST_LINES);
    for (let value = 0; value <= top + 1e-9; value += step) {
      const y = this.y(value);
      axes.append(made("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      axes.append(made("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, String(value)));
    }
    const bottom = height - MARGIN.bottom;
    // An exposure of 0 has a place on a logarithmic axis, too: each stands one further right.
    const beyond = by === "exposure" ? 1 : 0;
    for (const value of ticks(begin, end, beyond, width)) {
      const x = this.x(value + beyond);
      axes.append(made("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "tick" }));
      axes.append(made("text", { x, y: bottom + 17, "text-anchor": "middle" }, short(value)));
    }
    axes.append(made("text", { x: 2, y: 12, class: "unit" }, "nats per token"));
    const middle = (MARGIN.left + width - MARGIN.right) / 2;
    axes.append(made("text", { x: middle, y: height - 3, "text-anchor": "middle", class: "unit" }, UNITS[by]));
    return axes;
  }

  points({ values }) {
    const { bins } = this.drawn;
    const there = bins.map((bin, place) => [bin.x, values[place]]).filter(([, value]) => value != null);
    return there.map(([x, value]) => [this.x(x).toFixed(1), this.y(value).toFixed(1)]);
  }

  curve(curve) {
    const points = this.points(curve);
    const group = made("g", { class: `curve ${curve.kind} ${curve.key}` });
    if (!curve.dots) group.append(made("polyline", { points: points.map(String).join(" ") }));
    if (curve.dots || points.length === 1) {
      for (const [cx, cy] of points) group.append(made("circle", { cx, cy, r: 3 }));
    }
    return group;
  }

  bracket() {
    const [low, high] = ["genie", "greedy"].map((key) => this.drawn.curves.find((curve) => curve.key === key));
    const outline = low && high ? [...this.points(high), ...this.points(low).reverse()] : [];
    return made("polygon", { class: "bracket", points: outline.map(String).join(" ") });
  }

  legend() {
    this.values = this.drawn.curves.map(() => document.createElement("span"));
    this.list.replaceChildren(
      ...this.drawn.curves.map((curve, place) => {
        const item = document.createElement("li");
        const line = made("svg", { viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" });
        const group = made("g", { class: `curve ${curve.kind} ${curve.key}` });
        group.append(curve.dots ? made("circle", { cx: 13, cy: 5, r: 3 }) : made("polyline", { points: "1,5 25,5" }));
        line.append(group);
        item.append(line, curve.name, this.values[place]);
        return item;
      }),
    );
  }

  look(place) {
    this.place = place;
    if (!this.drawn) return;
    const { bins, curves, by } = this.drawn;
    const bin = bins[place];
    curves.forEach((curve, each) => {
      const value = bin ? curve.values[place] : curve.tail;
      this.values[each].textContent = value == null ? "–" : value.toFixed(3);
    });
    this.list.dataset.of = bin ? `${by} ${bin.text}` : "second half";
    this.chart.setAttribute("aria-valuetext", this.told(bin, place));
    this.cross?.replaceChildren();
    if (!bin || !this.cross) return;
    const x = this.x(bin.x);
    this.cross.append(made("line", { x1: x, x2: x, y1: MARGIN.top, y2: this.y(0) }));
    this.chart.setAttribute("aria-valuenow", place);
  }

  // In words; without a bin the means over the second half.
  told(bin, place) {
    const { curves, by } = this.drawn;
    const told = curves
      .map((curve) => [curve.name, bin ? curve.values[place] : curve.tail])
      .filter(([, value]) => value != null)
      .map(([name, value]) => `${name} ${value.toFixed(2)}`);
    return `${bin ? `${by} ${bin.text}` : "second half"}: ${told.join(", ")}`;
  }

  point(event) {
    if (!this.drawn || !this.x) return;
    const x = event.clientX - this.chart.getBoundingClientRect().left;
    let nearest = 0;
    this.drawn.bins.forEach((bin, place) => {
      if (Math.abs(this.x(bin.x) - x) < Math.abs(this.x(this.drawn.bins[nearest].x) - x)) nearest = place;
    });
    this.look(nearest);
  }

  key(event) {
    if (!this.drawn) return;
    const last = this.drawn.bins.length - 1;
    const to = {
      ArrowRight: this.place + 1,
      ArrowUp: this.place + 1,
      ArrowLeft: this.place - 1,
      ArrowDown: this.place - 1,
      Home: 0,
      End: last,
      Escape: -1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.look(event.key === "Escape" ? -1 : Math.min(last, Math.max(0, to)));
  }

  tabulate() {
    if (!this.table.open || !this.drawn) return;
    const { bins, curves, by } = this.drawn;
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const text of [by, ...curves.map((curve) => curve.name)]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = table.createTBody();
    bins.forEach((bin, place) => {
      const row = body.insertRow();
      row.insertCell().textContent = bin.text;
      for (const { values } of curves) row.insertCell().textContent = values[place]?.toFixed(3) ?? "";
    });
    this.table.querySelector(".scroll").replaceChildren(table);
  }
}

function ticks(begin, end, beyond, width) {
  const all = beyond ? [0] : [];
  for (let value = 1; value + beyond <= end; value *= 2) if (value >= begin) all.push(value);
  const every = Math.ceil((all.length * 44) / width);
  return all.filter((_, place) => (all.length - 1 - place) % every === 0);
}

function short(value) {
  return value >= 10000 ? `${Number((value / 1000).toPrecision(3))}k` : String(value);
}

function made(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
