// The strip at the foot: what the service is doing, from its metrics.

import { ask, Problem } from "./api.js";

const EVERY_MS = 750; // so that it is never a second behind
const READINGS = 4; // that a rate is taken over

export class Live {
  // `seen(there)`: whether the service answered.
  constructor(foot, seen) {
    this.foot = foot;
    this.seen = seen;
    this.readings = [];
    this.own = foot.querySelector("#version").textContent;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    this.look();
  }

  async look() {
    clearTimeout(this.next);
    if (document.hidden || this.asking) return;
    this.asking = true;
    try {
      const answer = await ask("metrics", AbortSignal.timeout(5000));
      this.show(read(await answer.text()));
      this.seen(true);
    } catch (error) {
      this.miss(error);
    }
    this.asking = false;
    this.next = setTimeout(() => this.look(), EVERY_MS);
  }

  show(now) {
    const [before] = (this.readings = [...this.readings, now].slice(-READINGS));
    const seconds = (now.at - before.at) / 1000;
    const rate = seconds > 0 ? Math.max(0, now.tokens - before.tokens) / seconds : null;
    // A page of another version would ask in words of its own.
    this.foot.querySelector("#renew").hidden = now.version === this.own || now.version === "–";
    const text = {
      rate: rate === null ? "–" : short(rate),
      running: `${now.running} of ${now.room}`,
      refused: short(now.refused),
      state: now.state,
      version: now.version,
    };
    for (const [name, value] of Object.entries(text)) this.write(name, value);
    this.foot.classList.toggle("busy", rate > 0);
    this.foot.classList.remove("away");
  }

  write(name, value) {
    this.foot.querySelector(`#${name}`).textContent = value;
  }

  miss(error) {
    this.readings = [];
    for (const name of ["rate", "running", "refused"]) this.write(name, "–");
    // It answers, if not with metrics: those have a port of their own, or want a token.
    const there = error instanceof Problem && error.status !== 0;
    this.write("state", there ? (error.status === 404 ? "no metrics here" : "no token") : "no answer");
    this.foot.classList.toggle("away", !there);
    this.seen(there);
  }
}

// Sums over the doors.
function read(text) {
  const sum = (name) => {
    let total = 0;
    for (const [, value] of text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))) total += Number(value);
    return total;
  };
  return {
    at: performance.now(),
    tokens: sum("metalm_tokens_total"),
    running: sum("metalm_requests_in_flight"),
    room: sum("metalm_requests_in_flight_limit"),
    refused: sum("metalm_refusals_total"),
    state: /^metalm_state\{state="(\w+)"\} 1/m.exec(text)?.[1] ?? "–",
    version: /^metalm_build_info\{.*version="([^"]+)"/m.exec(text)?.[1] ?? "–",
  };
}

function short(value) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  }
  return String(Math.round(value));
}
