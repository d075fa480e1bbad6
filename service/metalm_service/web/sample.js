// A sample as it is shown: a sequence of tokens, what is known of each, and where it stands.

export const KEPT = 0;
export const REPLACED = 1;
export const MASKED = 2;
const NOT_TOLD = -1;

// The tokens of x, or of y: those are the clean ones that follow, so what is known of the token at
// t of y stands at t + 1 in the provenance. Of the last one that is not told.
export class Sequence {
  constructor(batch, show) {
    this.batch = batch;
    this.show = show;
    const { x, y, element, offset, exposure, corruption, lengths } = batch;
    this.tokens = show === "x" ? x : y;
    this.length = x.length;
    if (show === "x") Object.assign(this, { element, offset, exposure, corruption });
    else {
      const last = this.length - 1;
      const within = offset[last] < lengths[element[last]];
      this.element = after(element, within ? element[last] : NOT_TOLD);
      this.offset = after(offset, within ? offset[last] + 1 : 0);
      this.exposure = after(exposure, within ? exposure[last] : NOT_TOLD);
      this.corruption = new Uint8Array(this.length);
    }
  }

  isSeparator(t) {
    const element = this.element[t];
    return element >= 0 && this.offset[t] === this.batch.lengths[element];
  }

  // Where each repetition begins.
  get starts() {
    if (this._starts === undefined) {
      const found = [];
      for (let t = 0; t < this.length; t++) if (t === 0 || this.offset[t] === 0) found.push(t);
      this._starts = Int32Array.from(found);
    }
    return this._starts;
  }

  clean(t) {
    if (this.show === "y") return this.tokens[t];
    // The clean token of t is the one that y tells at t - 1.
    return t > 0 ? this.batch.y[t - 1] : this.batch.tokens[startOf(this.batch, this.element[0])];
  }
}

function after(values, last) {
  const moved = new Int32Array(values.length);
  moved.set(values.subarray(1));
  moved[values.length - 1] = last;
  return moved;
}

function startOf({ lengths }, element) {
  let start = 0;
  for (let other = 0; other < element; other++) start += lengths[other];
  return start;
}

// One after another, so many a row.
export class Flow {
  constructor(sequence, columns) {
    this.sequence = sequence;
    this.columns = columns;
    this.rows = Math.ceil(sequence.length / columns);
  }

  at(row, column) {
    const t = row * this.columns + column;
    return column >= 0 && column < this.columns && t < this.sequence.length ? t : -1;
  }

  place(t) {
    return [Math.floor(t / this.columns), t % this.columns];
  }

  label(row) {
    return { text: String(row * this.columns), element: NOT_TOLD };
  }
}

// A row a repetition, those of an element under one another; a token stands at its offset.
export class Aligned {
  constructor(sequence) {
    this.sequence = sequence;
    const { starts, element, length } = sequence;
    const order = Int32Array.from(starts.keys());
    // Stable: of one element the earlier comes first. What is not told of stands last.
    const rank = (r) => (element[starts[r]] < 0 ? Infinity : element[starts[r]]);
    order.sort((one, other) => rank(one) - rank(other) || one - other);
    this.order = order;
    this.rows = order.length;
    this.rowOf = new Int32Array(order.length);
    order.forEach((repetition, row) => (this.rowOf[repetition] = row));
    this.columns = 0;
    for (let r = 0; r < starts.length; r++) {
      const end = r + 1 < starts.length ? starts[r + 1] : length;
      this.columns = Math.max(this.columns, sequence.offset[starts[r]] + end - starts[r]);
    }
  }

  at(row, column) {
    const { starts, offset, length } = this.sequence;
    const repetition = this.order[row];
    if (repetition === undefined) return -1;
    const t = starts[repetition] + column - offset[starts[repetition]];
    const end = repetition + 1 < starts.length ? starts[repetition + 1] : length;
    return t >= starts[repetition] && t < end ? t : -1;
  }

  place(t) {
    const { starts, offset } = this.sequence;
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= t) low = middle;
      else high = middle - 1;
    }
    return [this.rowOf[low], offset[starts[low]] + t - starts[low]];
  }

  label(row) {
    const start = this.sequence.starts[this.order[row]];
    return { text: String(start), element: this.sequence.element[start] };
  }

  // Whether a row is the first of its element.
  opens(row) {
    return row === 0 || this.label(row).element !== this.label(row - 1).element;
  }
}

export function told(sequence, t) {
  const { element, offset, exposure, corruption, batch } = sequence;
  const rows = [["position", String(t)], ["token", String(sequence.tokens[t])]];
  if (sequence.isSeparator(t)) rows.push(["", `the separator after element ${element[t]}`]);
  if (element[t] < 0) rows.push(["element", "of the next repetition, which is beyond the sample"]);
  else if (!sequence.isSeparator(t)) {
    rows.push(["element", String(element[t])], ["offset", `${offset[t]} of ${batch.lengths[element[t]]}`]);
  }
  if (element[t] >= 0) rows.push(["exposure", heard(exposure[t])]);
  if (sequence.show === "x") {
    rows.push(["noise", ["kept", "replaced", "masked"][corruption[t]]]);
    if (corruption[t] !== KEPT) rows.push(["clean", String(sequence.clean(t))]);
  }
  return rows;
}

export function counted(count, what) {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}

function heard(times) {
  return `${times}, ${times === 0 ? "new" : `heard ${times === 1 ? "once" : `${times} times`} before`}`;
}

// The element that is chosen; a link may name one that the language does not have.
export function chosen({ lengths }, element) {
  return /^\d+$/.test(element) && Number(element) < lengths.length ? String(Number(element)) : "";
}

export function facts(batch, sequence) {
  const count = batch.corruption.reduce((sum, noise) => sum + (noise !== KEPT), 0);
  const masked = batch.corruption.reduce((sum, noise) => sum + (noise === MASKED), 0);
  const share = (part) => `${((100 * part) / batch.x.length).toFixed(1)} %`;
  return [
    counted(batch.x.length, "token"),
    counted(sequence.starts.length, "repetition"),
    `${share(count - masked)} replaced, ${share(masked)} masked`,
    `digest ${batch.digest}`,
  ].join(" · ");
}
