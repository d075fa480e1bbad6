// How a token looks: in the colour of its element, its noise marked in more than colour.

import { colours, inks, strong } from "./palette.js";
import { KEPT, MASKED, REPLACED } from "./sample.js";

export const DOT = 9;
export const FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
const FADED = 0.16;

export class Cells {
  // `pen`: the canvas's; `across`, `down`: a cell's size.
  constructor(pen, across, down, dots) {
    Object.assign(this, { pen, across, down, dots, inks: inks() });
  }

  // token: {text, element, separator, noise, faded}
  paint(x, y, token) {
    this.pen.globalAlpha = token.faded ? FADED : 1;
    if (this.dots) this.dot(x, y, token);
    else this.number(x, y, token);
    this.pen.globalAlpha = 1;
  }

  number(x, y, { text, element, separator, noise }) {
    const { pen, across, down } = this;
    const [fill, ink] = colours(element);
    if (separator) return this.fill([x + across / 2 - 2.5, y + 2, 5, down - 4], this.inks.separator);
    const box = [x + 1, y + 1, across - 2, down - 2];
    if (noise === MASKED) this.outline(box, [2.5, 2.5], this.inks.faint, 1);
    else this.fill(box, fill);
    if (noise === REPLACED) {
      this.outline(box, [], this.inks.alarm, 1.75);
      this.corner(box);
    }
    pen.font = `${noise === REPLACED ? "bold " : ""}11.5px ${FONT}`;
    pen.textAlign = "center";
    pen.fillStyle = noise === MASKED ? this.inks.faint : ink;
    pen.fillText(text, x + across / 2, y + down / 2 + 0.5);
  }

  dot(x, y, { element, separator, noise }) {
    const { pen } = this;
    if (noise === REPLACED) this.diamond(x, y);
    else {
      const room = noise === KEPT ? 0.5 : 3;
      pen.fillStyle = noise === MASKED ? this.inks.faint : separator ? this.inks.separator : strong(element);
      pen.fillRect(x + room, y + room, DOT - 2 * room, DOT - 2 * room);
    }
  }

  diamond(x, y) {
    const { pen } = this;
    const [near, middle, far] = [0.5, DOT / 2, DOT - 0.5];
    pen.fillStyle = this.inks.alarm;
    pen.beginPath();
    pen.moveTo(x + middle, y + near);
    pen.lineTo(x + far, y + middle);
    pen.lineTo(x + middle, y + far);
    pen.lineTo(x + near, y + middle);
    pen.fill();
  }

  fill([x, y, width, height], colour) {
    const { pen } = this;
    pen.fillStyle = colour;
    pen.beginPath();
    pen.roundRect(x, y, width, height, 3);
    pen.fill();
  }

  outline([x, y, width, height], dashes, colour, thick) {
    const { pen } = this;
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.setLineDash(dashes);
    pen.beginPath();
    pen.roundRect(x + thick / 2, y + thick / 2, width - thick, height - thick, 3);
    pen.stroke();
    pen.setLineDash([]);
  }

  corner([x, y, width]) {
    const { pen } = this;
    pen.fillStyle = this.inks.alarm;
    pen.beginPath();
    pen.moveTo(x + width - 7, y);
    pen.lineTo(x + width, y);
    pen.lineTo(x + width, y + 7);
    pen.fill();
  }
}
