// The tokens, on a canvas that holds no more than what is in view: a sample may have millions.

import { Cells, DOT, FONT } from "./cells.js";
import { dark, strong } from "./palette.js";
import { Aligned, Flow, told } from "./sample.js";

const GUTTER = 58;
const TALLEST = 8e6; // pixels: browsers have a limit to how high a thing may be

export class Strip {
  // `move(t)`: somebody looks at the token t.
  constructor({ strip, card, seen }) {
    Object.assign(this, { strip, card, seen });
    this.canvas = strip.querySelector("canvas");
    this.sizer = strip.querySelector(".sizer");
    this.pen = this.canvas.getContext("2d");
    this.cursor = 0;
    this.chosen = "";
    this.sequence = null;
    strip.addEventListener("scroll", () => this.draw(), { passive: true });
    strip.addEventListener("keydown", (event) => this.key(event));
    strip.addEventListener("pointermove", (event) => this.point(event));
    strip.addEventListener("pointerdown", (event) => this.point(event));
    strip.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.look(null));
    strip.addEventListener("focus", () => strip.matches(":focus-visible") && this.look(this.cursor));
    strip.addEventListener("blur", () => this.look(null));
    dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.lay()).observe(strip);
  }

  show(sequence, view, cells, chosen) {
    const sought = chosen !== "" && (chosen !== this.chosen || view !== this.view);
    Object.assign(this, { sequence, view, cells, chosen });
    this.cursor = Math.min(this.cursor, sequence.length - 1);
    this.strip.setAttribute("aria-valuemax", sequence.length - 1);
    this.lay();
    this.say();
    this.look(null);
    if (sought) this.seek(Number(chosen));
  }

  // Brings where an element is first spoken into view.
  seek(element) {
    const t = this.sequence.element.indexOf(element);
    if (t >= 0) this.reveal(t, this.strip.clientHeight / 3);
  }

  lay() {
    if (!this.sequence) return;
    const digits = String(this.sequence.batch.separator).length;
    this.across = this.cells === "dots" ? DOT : Math.max(24, digits * 7.2 + 9);
    this.down = this.cells === "dots" ? DOT : 24;
    const width = this.strip.clientWidth - GUTTER;
    this.layout =
      this.view === "aligned"
        ? new Aligned(this.sequence)
        : new Flow(this.sequence, Math.max(1, Math.floor(width / this.across)));
    this.gaps = this.view === "aligned" ? this.gapsOf(this.layout) : null;
    const height = this.top(this.layout.rows) + 6;
    // Above the limit a pixel of the scroll bar is several pixels of rows.
    this.stretch = Math.max(1, height / TALLEST);
    this.sizer.style.height = `${height / this.stretch}px`;
    this.sizer.style.width = `${GUTTER + this.layout.columns * this.across}px`;
    this.draw();
  }

  // How many rows down a space has been left, before each row: between elements.
  gapsOf(layout) {
    const gaps = new Int32Array(layout.rows + 1);
    for (let row = 0; row < layout.rows; row++) gaps[row + 1] = gaps[row] + (row > 0 && layout.opens(row));
    return gaps;
  }

  top(row) {
    const gap = this.gaps ? this.gaps[Math.min(row + 1, this.layout.rows)] * (this.down / 2) : 0;
    return 6 + row * this.down + gap;
  }

  rowAt(y) {
    let low = 0;
    let high = this.layout.rows - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.top(middle) <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  draw() {
    this.due ??= requestAnimationFrame(() => {
      this.due = undefined;
      this.paint();
    });
  }

  get scrolled() {
    return [this.strip.scrollLeft, this.strip.scrollTop * this.stretch];
  }

  paint() {
    const { strip, canvas, pen, layout } = this;
    if (!layout) return;
    const scale = devicePixelRatio || 1;
    const [width, height] = [strip.clientWidth, strip.clientHeight];
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const painter = (this.painter = new Cells(pen, this.across, this.down, this.cells === "dots"));
    pen.fillStyle = painter.inks.paper;
    pen.fillRect(0, 0, width, height);
    pen.textBaseline = "middle";
    const [left, above] = this.scrolled;
    const firstColumn = Math.max(0, Math.floor(left / this.across));
    const lastColumn = Math.min(layout.columns - 1, Math.floor((left + width - GUTTER) / this.across));
    const seen = [];
    let first = true;
    for (let row = this.rowAt(above); row < layout.rows && this.top(row) < above + height; row++) {
      const y = this.top(row) - above;
      const line = [];
      for (let column = firstColumn; column <= lastColumn; column++) {
        const t = layout.at(row, column);
        if (t < 0) continue;
        const token = this.token(t);
        painter.paint(GUTTER + column * this.across - left, y, token);
        line.push(token.text);
      }
      this.gutter(row, y, first);
      first = false;
      if (line.length && y >= 0) seen.push(`${layout.label(row).text}: ${line.join(" ")}`);
    }
    this.mark(left, above);
    this.describe(seen);
  }

  token(t) {
    const { sequence, chosen } = this;
    const element = sequence.element[t];
    return {
      text: String(sequence.tokens[t]),
      element,
      separator: sequence.isSeparator(t),
      noise: sequence.corruption[t],
      faded: chosen !== "" && String(element) !== chosen,
    };
  }

  gutter(row, y, first) {
    const { pen, layout } = this;
    const { paper, faint } = this.painter.inks;
    const { text, element } = layout.label(row);
    pen.fillStyle = paper;
    pen.fillRect(0, y, GUTTER - 4, this.down);
    if (this.cells === "dots" && !first && row % 5 && !this.gaps) return;
    if (this.cells === "dots" && this.gaps && !layout.opens(row)) return;
    pen.font = `10.5px ${FONT}`;
    pen.textAlign = "right";
    pen.fillStyle = faint;
    pen.fillText(text, GUTTER - 10, y + this.down / 2);
    if (element >= 0) {
      pen.fillStyle = strong(element);
      pen.fillRect(2, y + 3, 3, this.down - 6);
    }
  }

  mark(left, above) {
    if (this.looked == null) return;
    const [row, column] = this.layout.place(this.looked);
    const [x, y] = [GUTTER + column * this.across - left, this.top(row) - above];
    if (x < GUTTER - 2) return;
    const { painter } = this;
    painter.outline([x - 1, y - 1, this.across + 2, this.down + 2], [], painter.inks.ink, 2);
  }

  // For those who do not see the canvas; when it has come to rest.
  describe(seen) {
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      this.seen.textContent = seen.join("\n");
    }, 60);
  }

  place(event) {
    const box = this.strip.getBoundingClientRect();
    const [left, above] = this.scrolled;
    const y = event.clientY - box.top + above;
    const row = this.rowAt(y);
    if (y < this.top(row) || y >= this.top(row) + this.down) return -1;
    const x = event.clientX - box.left - GUTTER;
    return x < 0 ? -1 : this.layout.at(row, Math.floor((x + left) / this.across));
  }

  point(event) {
    if (!this.sequence) return;
    const t = this.place(event);
    if (event.type === "pointerdown" && t >= 0) {
      this.cursor = t;
      this.say();
    }
    this.look(t < 0 ? null : t);
  }

  key(event) {
    if (!this.sequence || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.strip.clientHeight / this.down) - 1);
    const last = this.sequence.length - 1;
    const to = {
      ArrowRight: () => this.cursor + 1,
      ArrowLeft: () => this.cursor - 1,
      ArrowDown: () => this.below(1),
      ArrowUp: () => this.below(-1),
      PageDown: () => this.below(page),
      PageUp: () => this.below(-page),
      Home: () => 0,
      End: () => last,
      Escape: () => null,
    }[event.key]?.();
    if (to === undefined) return;
    event.preventDefault();
    if (to === null) return void this.look(null);
    this.cursor = Math.min(last, Math.max(0, to));
    this.reveal(this.cursor);
    this.say();
    this.look(this.cursor);
  }

  // The token so many rows further down in the same column, or in the nearest that the row has.
  below(rows) {
    const [row, column] = this.layout.place(this.cursor);
    const other = Math.min(this.layout.rows - 1, Math.max(0, row + rows));
    for (let away = 0; away < this.layout.columns; away++) {
      for (const near of [column - away, column + away]) {
        const t = this.layout.at(other, near);
        if (t >= 0) return t;
      }
    }
    return this.cursor;
  }

  // With so many pixels below it.
  reveal(t, room = 8) {
    const [row, column] = this.layout.place(t);
    const [left, above] = this.scrolled;
    const { clientWidth, clientHeight } = this.strip;
    const [x, y] = [column * this.across, this.top(row)];
    if (y < above + 4) this.strip.scrollTop = (y - 8) / this.stretch;
    else if (y + this.down + room > above + clientHeight) {
      this.strip.scrollTop = (y + this.down + room - clientHeight) / this.stretch;
    }
    if (x < left) this.strip.scrollLeft = x;
    else if (x + this.across > left + clientWidth - GUTTER) {
      this.strip.scrollLeft = x + this.across - clientWidth + GUTTER;
    }
  }

  say() {
    this.strip.setAttribute("aria-valuenow", this.cursor);
    const text = told(this.sequence, this.cursor).map(([name, value]) => `${name} ${value}`.trim());
    this.strip.setAttribute("aria-valuetext", text.join(", "));
  }

  look(t) {
    this.looked = t;
    this.card.hidden = t == null;
    this.draw();
    if (t == null) return;
    this.card.replaceChildren(
      ...told(this.sequence, t).map(([name, value]) => {
        const line = document.createElement("p");
        const label = document.createElement("span");
        label.textContent = name;
        line.append(label, value);
        return line;
      }),
    );
    const [row, column] = this.layout.place(t);
    const [left, above] = this.scrolled;
    const { clientWidth, clientHeight } = this.strip;
    const [x, y] = [GUTTER + column * this.across - left, this.top(row) - above];
    const { offsetWidth, offsetHeight } = this.card;
    const beside = x + this.across + 12 + offsetWidth < clientWidth;
    const at = beside ? x + this.across + 12 : x - offsetWidth - 12;
    const from = Math.min(Math.max(4, y - 12), Math.max(4, clientHeight - offsetHeight - 4));
    const most = Math.max(4, clientWidth - offsetWidth - 4);
    this.card.style.transform = `translate(${Math.min(most, Math.max(4, at))}px, ${from}px)`;
  }
}
