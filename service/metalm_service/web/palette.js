// A hue an element. The first twelve are told apart best; which element it is, the page says in
// words as well.

const FIRST = [262, 28, 150, 310, 85, 200, 350, 120, 285, 55, 235, 175];
const GOLDEN = 137.508;

export const dark = matchMedia("(prefers-color-scheme: dark)");

export function hue(element) {
  return FIRST[element] ?? (40 + element * GOLDEN) % 360;
}

// For the canvas: what a cell of an element is filled and written with.
export function colours(element) {
  if (element < 0) return dark.matches ? ["#2a2e35", "#c3c7cf"] : ["#e9e7e2", "#4a4a48"];
  const h = hue(element);
  return dark.matches
    ? [`oklch(0.36 0.075 ${h})`, `oklch(0.93 0.05 ${h})`]
    : [`oklch(0.915 0.06 ${h})`, `oklch(0.36 0.11 ${h})`];
}

// For dots and swatches, which have nothing written in them.
export function strong(element) {
  if (element < 0) return dark.matches ? "#565c66" : "#bdbab3";
  return dark.matches ? `oklch(0.68 0.13 ${hue(element)})` : `oklch(0.68 0.14 ${hue(element)})`;
}

// Values of the style sheet that the canvas needs.
export function inks() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "faint", "alarm", "separator"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
