// The language: its elements, each of which shows where it is spoken.

import { strong } from "./palette.js";
import { counted } from "./sample.js";

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
    this.spoken.textContent = `${counted(lengths.length, "element")}, ${heard} of them spoken here`;
    const items = [];
    const sought = chosen === "" ? -1 : Number(chosen);
    let start = 0;
    lengths.forEach((length, element) => {
      // However far down it is, who has chosen it must find it.
      if (element < this.many || element === sought) {
        items.push(this.item(element, tokens.subarray(start, start + length)));
      }
      start += length;
    });
    if (lengths.length > this.many) items.push(more(lengths.length - this.many));
    this.replace(items);
  }

  // Whoever has the keyboard on one of them has it on what comes in its place.
  replace(items) {
    const place = [...this.list.children].indexOf(document.activeElement?.closest("li"));
    this.list.replaceChildren(...items);
    this.list.children[place]?.firstChild.focus({ preventScroll: true });
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
