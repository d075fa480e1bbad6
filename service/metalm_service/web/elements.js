// The language: its elements, each of which shows where it is spoken.

import { strong } from "./palette.js";

const AT_A_TIME = 60;
const FEW = 48; // tokens of an element that are shown

export class Elements {
  constructor({ list, spoken }, choose) {
    Object.assign(this, { list, spoken, choose });
    this.many = AT_A_TIME;
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.element === undefined) {
        this.many += AT_A_TIME;
        this.show(this.batch, this.chosen);
      } else this.choose(button.dataset.element === this.chosen ? "" : button.dataset.element);
    });
  }

  show(batch, chosen) {
    if (batch !== this.batch) this.times = timesOf(batch);
    Object.assign(this, { batch, chosen });
    const { lengths, tokens } = batch;
    const heard = this.times.reduce((count, times) => count + (times > 0), 0);
    this.spoken.textContent = `${lengths.length} elements, ${heard} of them spoken here`;
    const items = [];
    let start = 0;
    for (let element = 0; element < Math.min(lengths.length, this.many); element++) {
      const own = tokens.subarray(start, (start += lengths[element]));
      items.push(this.item(element, own));
    }
    if (lengths.length > this.many) items.push(more(lengths.length - this.many));
    this.list.replaceChildren(...items);
  }

  item(element, own) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.element = element;
    button.setAttribute("aria-pressed", String(element) === this.chosen);
    const swatch = document.createElement("i");
    swatch.style.background = strong(element);
    const name = document.createElement("b");
    name.textContent = element;
    const times = document.createElement("span");
    times.textContent = this.times[element] ? `${this.times[element]} ×` : "never";
    const code = document.createElement("code");
    code.textContent = own.subarray(0, FEW).join(" ") + (own.length > FEW ? " …" : "");
    const about = document.createElement("small");
    about.textContent = `${own.length} tokens`;
    button.append(swatch, name, about, times, code);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}

function timesOf({ element, offset, lengths }) {
  const times = new Int32Array(lengths.length);
  for (let t = 0; t < element.length; t++) if (t === 0 || offset[t] === 0) times[element[t]]++;
  return times;
}

function more(left) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.textContent = `${left} more`;
  const item = document.createElement("li");
  item.append(button);
  return item;
}
