// The page as a whole: the address says what is wanted, the service what it is.

import { ask, Problem, useToken } from "./api.js";
import { decode } from "./batch.js";
import { Chart } from "./chart.js";
import { Elements } from "./elements.js";
import { curvesOf, fetchFloors, question, summary } from "./floors.js";
import { defaultsOf, Knobs } from "./knobs.js";
import { Live } from "./live.js";
import { dark } from "./palette.js";
import { Reach, REACHING } from "./reach.js";
import { chosen, facts, Sequence } from "./sample.js";
import { offer, showSnippets } from "./snippets.js";
import { begin, defaults, query, read, written } from "./state.js";
import { Strip } from "./strip.js";

const SOON_MS = 25; // between two questions while a knob is turned
const REST_MS = 350; // before floors are asked for
const LONG_MS = 4000; // for floors
const LONGEST_WAIT_S = 5;
const LONG_WORDS = "computing… The first floors after the service's start take longest: what computes them may have to be compiled.";
const MAY_BE_EMPTY = new Set(["language", "element", "ladder"]);

const $ = (id) => document.getElementById(id);

class Page {
  constructor() {
    begin(defaultsOf($("knobs")));
    this.knobs = new Knobs($("knobs"), (changes, done) => this.turn(changes, done));
    this.strip = new Strip({ strip: $("strip"), card: $("card"), seen: $("seen") });
    this.elements = new Elements({ list: $("elements"), spoken: $("spoken") }, (element) => this.turn({ element }, true));
    this.reach = new Reach((most) => {
      this.knobs.reach(most);
      this.knobs.show(this.state);
    });
    this.chart = new Chart({ chart: $("chart"), list: $("curves"), table: $("figures") });
    for (const input of document.querySelectorAll("main > section input")) {
      input.addEventListener("change", () => this.turn({ [input.name]: input.checked ? input.value : "" }, true));
    }
    addEventListener("popstate", () => {
      this.turned = "";
      this.go(read(location.search));
    });
    dark.addEventListener("change", () => this.show());
    $("entry").addEventListener("submit", (event) => {
      event.preventDefault();
      useToken($("token").value);
      this.askAgain();
    });
    this.live = new Live(document.querySelector("footer"), (there) => there && this.away && this.askAgain());
    const state = read(location.search);
    history.replaceState(null, "", written(state));
    this.go(state);
  }

  // Somebody turns a knob: one step back for each that was let go.
  turn(changes, done) {
    const state = { ...this.state, ...changes };
    const names = Object.keys(changes);
    this.turned = names.length === 1 ? names[0] : "";
    for (const name of names) {
      if (state[name] !== "" || MAY_BE_EMPTY.has(name)) continue;
      // Somebody is about to write something else there.
      if (!done) return;
      state[name] = name === "seed" ? drawn() : defaults[name];
    }
    const address = written(state);
    if (address !== written(this.state)) {
      history[this.turning ? "replaceState" : "pushState"](null, "", address);
      this.turning = true;
      this.go(state);
    }
    if (done) this.turning = false;
  }

  go(state) {
    this.state = state;
    document.title = `MetaLM(${["V", "n", "l", "e", "L"].map((name) => state[name]).join(", ")}), seed ${state.seed}`;
    this.knobs.show(state);
    for (const input of document.querySelectorAll("main > section input")) {
      input.checked = input.value === state[input.name];
    }
    if (String(query(state)) !== this.asked) this.want();
    else this.show();
    if (question(state) !== this.askedFloors) this.wantFloors();
    else this.showFloors().catch((error) => this.tell(error.message));
  }

  askAgain() {
    this.live.look();
    this.want();
    this.wantFloors();
  }

  // The sample: at once, and no oftener than can be looked at.
  want() {
    clearTimeout(this.soon);
    this.changedAt = performance.now();
    const wait = Math.max(0, (this.lastAsked ?? -SOON_MS) + SOON_MS - performance.now());
    if (wait === 0) this.fetch();
    else this.soon = setTimeout(() => this.fetch(), wait);
  }

  async fetch() {
    clearTimeout(this.soon);
    this.lastAsked = performance.now();
    this.asked = String(query(this.state));
    this.outdated?.abort();
    const { signal } = (this.outdated = new AbortController());
    $("sample").setAttribute("aria-busy", "true");
    try {
      const answer = await ask(`sample?${this.asked}&provenance=true&format=protobuf`, signal);
      this.batch = decode(await answer.arrayBuffer());
      this.fetched = this.state;
      this.knobs.content();
      this.well();
      this.show();
      this.reach.want(this.state);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  show() {
    if (!this.batch || String(query(this.fetched)) !== String(query(this.state))) return;
    const { show, view, cells } = this.state;
    const element = chosen(this.batch, this.state.element);
    if (this.sequence?.batch !== this.batch || this.sequence.show !== show) {
      this.sequence = new Sequence(this.batch, show);
    }
    this.strip.show(this.sequence, view, cells, element);
    this.elements.show(this.batch, element);
    $("sample").classList.toggle("dots", cells === "dots");
    $("facts").textContent = facts(this.batch, this.sequence);
    showSnippets($("snippets"), this.fetched);
    offer(document.querySelectorAll("[data-format]"), this.fetched, (problem) => this.tell(problem.message));
    $("sample").setAttribute("aria-busy", "false");
    requestAnimationFrame(() => {
      document.documentElement.dataset.shown = this.asked;
      performance.clearMeasures("change to shown");
      performance.measure("change to shown", { start: this.changedAt });
    });
  }

  // The floors: when the knobs have come to rest.
  wantFloors() {
    clearTimeout(this.rest);
    this.floorsOutdated?.abort();
    this.chart.age();
    this.askedFloors = question(this.state);
    this.floors = null;
    $("floors-state").textContent = "computing…";
    $("floors").setAttribute("aria-busy", "true");
    this.rest = setTimeout(() => this.fetchFloors(), REST_MS);
  }

  async fetchFloors() {
    // What is no sample has no floors: that was said already.
    if (this.refused) return void ($("floors-state").textContent = "");
    const { signal } = (this.floorsOutdated = new AbortController());
    clearTimeout(this.patient);
    this.patient = setTimeout(() => ($("floors-state").textContent = LONG_WORDS), LONG_MS);
    signal.addEventListener("abort", () => clearTimeout(this.patient));
    try {
      this.floors = await fetchFloors(this.askedFloors, Number(this.state.L), signal);
      clearTimeout(this.patient);
      await this.showFloors();
    } catch (error) {
      if (error.name === "AbortError") return;
      clearTimeout(this.patient);
      $("floors-state").textContent = `no floors: ${error.message}`;
      if (error instanceof Problem && error.status === 0) this.away = true;
      if (error instanceof Problem && error.status === 503) {
        this.rest = this.later(() => this.fetchFloors(), Math.max(2, error.retryAfterS));
      }
    }
    $("floors").setAttribute("aria-busy", "false");
  }

  async showFloors() {
    if (!this.floors) return;
    const drawn = await curvesOf(this.floors, this.state.by);
    if (drawn.told !== this.floors) return;
    this.chart.show(drawn, this.state.ladder === "1");
    $("floors-state").textContent = summary(drawn);
    const { samples, seed, split } = this.floors;
    $("floors-of").textContent = `Means over ${samples} samples, seed ${seed}, split ${split}.`;
  }

  fail(error) {
    $("sample").setAttribute("aria-busy", "false");
    if (!(error instanceof Problem)) return this.tell(String(error));
    if (error.status === 401) return this.enter(error.message);
    if (!error.passes) {
      this.refuse(true);
      // It may be for this service alone that it is too much, and then several knobs make it so.
      const large = error.reason === "LIMIT_EXCEEDED" ? (REACHING.includes(this.turned) ? this.turned : "L") : undefined;
      if (large) this.reach.want(this.state);
      if (!this.knobs.complain(error.field, error.message, large)) this.tell(error.message);
      return;
    }
    this.away = true;
    this.patience = Math.min(LONGEST_WAIT_S, Math.max(error.retryAfterS, 2 * (this.patience ?? 0.25)));
    this.tell(`${error.message}; it is asked again`);
    this.soon = this.later(() => this.fetch(), this.patience);
  }

  // Where nobody looks nobody is asked, but when somebody does.
  later(ask, seconds) {
    return setTimeout(() => (document.hidden ? (this.away = true) : ask()), 1000 * seconds);
  }

  well() {
    if (this.away || this.refused) this.wantFloors();
    this.away = false;
    this.refuse(false);
    this.patience = undefined;
    $("trouble").hidden = true;
    $("entry").hidden = true;
  }

  // What is shown is then of what was asked before.
  refuse(refused) {
    this.refused = refused;
    $("sample").classList.toggle("stale", refused);
  }

  enter(words) {
    this.tell(words);
    $("entry").hidden = false;
    $("token").focus();
  }

  tell(words) {
    $("trouble").textContent = words;
    $("trouble").hidden = false;
  }
}

// A seed that every reader of JSON keeps.
function drawn() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return String((high & 0x1fffff) * 2 ** 32 + low);
}

new Page();
