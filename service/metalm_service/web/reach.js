// How far the knobs go on this service from where they are: what it says of itself.

import { ask, Problem } from "./api.js";
import { query } from "./state.js";

export const REACHING = ["V", "n", "l", "L"];
const ASKED = [...REACHING, "profile", "language"];
const REST_MS = 350;

export class Reach {
  // `told({V, n, l, L})`: the largest of each, the others as they are.
  constructor(told) {
    this.told = told;
  }

  // When the knobs have come to rest.
  want(state) {
    const asked = String(query(state, ASKED));
    if (asked === this.asked) return;
    this.asked = asked;
    this.outdated?.abort();
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.fetch(asked), REST_MS);
  }

  async fetch(asked) {
    const { signal } = (this.outdated = new AbortController());
    try {
      const { reach } = await (await ask(`describe?${asked}`, signal)).json();
      // A service of another version may not say.
      if (reach) this.told(reach);
    } catch (error) {
      if (error.name === "AbortError") return;
      // Of what is wrong the sample speaks, with which it is asked for again.
      this.asked = undefined;
      if (!(error instanceof Problem)) throw error;
    }
  }
}
