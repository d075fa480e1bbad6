// The knobs: what stands in them, how far they reach, and what the service has against it.

import { SETTINGS, settingOf, spec } from "./state.js";

const STEPS = 1000; // of a slider

// `turned(changes, done)`: values that somebody has chosen; `done` when the knob is let go.
export class Knobs {
  constructor(form, turned) {
    this.form = form;
    this.turned = turned;
    this.fields = new Map();
    for (const knob of form.querySelectorAll("[data-knob]")) this.fields.set(knob.dataset.knob, knob);
    const setting = form.querySelector("#setting");
    setting.append(new Option("of your own", ""), ...SETTINGS.map(([name], place) => new Option(name, place)));
    setting.addEventListener("change", () => {
      if (setting.value !== "") turned(spec(SETTINGS[setting.value][1]), true);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => this.take(event.target, false));
    form.addEventListener("change", (event) => this.take(event.target, true));
    form.addEventListener("click", (event) => this.step(event.target.closest("[data-step]")));
    form.querySelector("#unfold").addEventListener("click", () => this.unfold(!form.classList.contains("open")));
  }

  unfold(open) {
    this.form.querySelector("#unfold").setAttribute("aria-expanded", open);
    this.form.classList.toggle("open", open);
  }

  take(input, done) {
    const name = input.closest("[data-knob]")?.dataset.knob;
    if (name === undefined) return;
    if (input.type === "range") {
      const text = input.dataset.scale.split(" ");
      const value = valueAt(input.value / STEPS, text);
      const number = name === "l" ? Number(value.toPrecision(2)) : value;
      this.turned({ [name]: String(number) }, done);
    } else this.turned({ [name]: input.value.trim() }, done);
  }

  step(button) {
    if (!button) return;
    const input = button.parentElement.querySelector("input");
    const now = /^[0-9]{1,40}$/.test(input.value) ? BigInt(input.value) : -1n;
    const next = now + BigInt(button.dataset.step);
    this.turned({ [input.name]: next < 0n ? "" : String(next) }, true);
  }

  show(state) {
    for (const [name, knob] of this.fields) {
      for (const input of knob.querySelectorAll("input")) {
        if (input.type === "radio") input.checked = input.value === state[name];
        else if (input.type !== "range") {
          if (input.value.trim() !== state[name]) input.value = state[name];
        } else if (document.activeElement !== input || !input.matches(":active")) {
          input.value = STEPS * placeOf(Number(state[name]), input.dataset.scale.split(" "));
        }
        if (input.type === "range") input.setAttribute("aria-valuetext", state[name]);
      }
    }
    this.form.querySelector("#setting").value = settingOf(state);
    const named = ["V", "n", "l", "e", "L"].map((name) => `${name} ${state[name]}`).join(" · ");
    this.form.querySelector("#unfold").textContent = named;
  }

  // How far knobs go on this service, by name; 0 where nothing would do, as another goes too far.
  reach(most) {
    for (const [name, value] of Object.entries(most)) {
      const knob = this.fields.get(name);
      const note = knob.querySelector(".note");
      note.dataset.ever ??= note.dataset.bound;
      const ever = note.dataset.ever.split(" ").at(-1);
      const less = value > 0 && value < Number(ever);
      note.dataset.bound = less ? `${note.dataset.ever.slice(0, -ever.length)}${value} on this server` : note.dataset.ever;
      if (!knob.classList.contains("wrong")) note.textContent = note.dataset.bound;
      const { dataset } = knob.querySelector("[type=range]");
      dataset.whole ??= dataset.scale;
      const [scale, low, high] = dataset.whole.split(" ");
      dataset.scale = less && value > low ? `${scale} ${low} ${Math.min(high, value)}` : dataset.whole;
    }
  }

  // `field` as the service names it: "vocab_size (V)", "L"; what is of no knob is not said here.
  // `large`: the knob that has made too much of it, where something is too much for the service.
  complain(field, words, large) {
    const knob = this.fields.get(large ?? /\((\w+)\)/.exec(field)?.[1] ?? field);
    if (!knob) return false;
    const note = knob.querySelector(".note");
    note.setAttribute("role", "alert");
    note.textContent = words;
    knob.classList.add("wrong");
    for (const input of knob.querySelectorAll("input")) input.setAttribute("aria-invalid", "true");
    this.form.classList.add("refused");
    // On a small screen they may all be folded away.
    if (knob.offsetParent === null) this.unfold(true);
    return true;
  }

  content() {
    this.form.classList.remove("refused");
    for (const knob of this.form.querySelectorAll(".wrong")) {
      const note = knob.querySelector(".note");
      note.textContent = note.dataset.bound ?? "";
      note.removeAttribute("role");
      knob.classList.remove("wrong");
      for (const input of knob.querySelectorAll("input")) input.removeAttribute("aria-invalid");
    }
  }
}

export function defaultsOf(form) {
  const found = { profile: "metalm", split: "train" };
  for (const input of form.querySelectorAll("[data-default]")) {
    const text = input.dataset.default;
    found[input.name] = text === "" ? "" : String(Number(text));
  }
  return found;
}

function valueAt(place, [scale, low, high, step]) {
  if (scale === "log") return Math.round(low * (high / low) ** place);
  return Number((Math.round((+low + place * (high - low)) / step) * step).toFixed(4));
}

function placeOf(value, [scale, low, high]) {
  const within = Math.min(Math.max(value || 0, low), high);
  return scale === "log" ? Math.log(within / low) / Math.log(high / low) : (within - low) / (high - low);
}

