// What the best possible learner does, from /floors: curves to be drawn.

import { ask, Problem } from "./api.js";
import { SPEC } from "./state.js";

const FLOORS_L = 2048; // up to here the curve by position is drawn from single steps
const TOKENS = 2 ** 18; // that the means are taken of, for long samples
const MOST_SAMPLES = 64;
const FEWEST_TOKENS = 64; // in a bin, for a mean to be drawn
const MOST_SEGMENTS = 32; // that are drawn one by one: as many as published curves have
const LADDER = { uniform: "uniform", suffix: "suffix match", "last-copy": "last copy", vote: "vote of copies" };

let published;

// The question: of the distribution, not of the sample shown, so that it is one for all samples.
// Where all samples speak one language, that language is part of it.
export function question(state) {
  const names = state.language === "" ? SPEC : [...SPEC, "seed", "split"];
  const pairs = names.filter((name) => state[name] !== "").map((name) => [name, state[name]]);
  return String(new URLSearchParams(pairs));
}

// Rejects with Problem, and with an AbortError where the signal says so.
export async function fetchFloors(asked, length, signal) {
  let samples = Math.min(MOST_SAMPLES, Math.max(1, Math.floor(TOKENS / length)));
  for (;;) {
    const steps = length <= FLOORS_L ? "&steps=true" : "";
    try {
      const answer = await ask(`floors?${asked}&samples=${samples}${steps}`, signal);
      return await answer.json();
    } catch (error) {
      const dear = error instanceof Problem && error.reason === "LIMIT_EXCEEDED" && error.field === "samples";
      if (!dear || samples === 1) throw error;
      samples = Math.max(1, samples >> 2);
    }
  }
}

// What is drawn: bins [{from, to, x, text}], and curves [{key, name, kind, ladder, dots, values, tail}],
// a value a bin; the tail is the mean over the second half.
export async function curvesOf(told, by, signal) {
  const bins = by === "position" ? positions(told) : exposures(told);
  const exact = told.exact_samples === told.samples;
  const curves = [];
  for (const name of order(Object.keys(told.predictors), exact)) {
    // A memory of all tokens is none that is limited.
    if (windowOf(name) >= told.spec.L) continue;
    const mean = bins.mean(told.predictors[name]);
    curves.push({ key: name, ...titled(name, exact), values: mean, tail: told.predictors[name].plateau.mean[0] });
  }
  if (by === "position") curves.splice(exact ? 2 : 3, 0, ...(await publishedCurves(told.spec, bins, signal)));
  return { by, bins: bins.all, curves, exact, told };
}

// What matters most comes first.
function order(names, exact) {
  const rank = ["greedy", "genie", "known", "content-free", "uniform", "suffix", "last-copy", "vote"];
  const place = (name) => (rank.includes(name) ? rank.indexOf(name) : rank.length);
  return names.filter((name) => !(exact && name === "genie")).sort((one, other) => place(one) - place(other));
}

export function summary({ exact, told }) {
  const tail = (name) => told.predictors[name]?.plateau.mean[0]?.toFixed(2);
  const [low, high] = [tail("genie"), tail("greedy")];
  const bayes = low === high ? high : `${low} to ${high}`;
  const sure = exact ? "exact" : `exact on ${told.exact_samples} of ${told.samples} samples`;
  return `${bayes} nats a token for the best possible learner in the second half (${sure}), ${tail("known")} for one who knows the language`;
}

function titled(name, exact) {
  if (name === "greedy") return { name: exact ? "Bayes learner (exact)" : "Bayes learner, at most", kind: "bayes" };
  if (name === "genie") return { name: "Bayes learner, at least", kind: "genie" };
  if (name === "known") return { name: "language known", kind: "known" };
  if (name === "content-free") return { name: "no memory", kind: "free" };
  const window = windowOf(name);
  return window > 0
    ? { name: `Bayes, last ${window} tokens`, kind: "window", ladder: true }
    : { name: LADDER[name] ?? name, kind: "simple", ladder: true };
}

function windowOf(name) {
  return Number(/^bayes-(\d+)$/.exec(name)?.[1] ?? 0);
}

function positions(told) {
  const single = Object.values(told.predictors)[0].position;
  if (!single) return segments(told.bins.segment);
  const all = pairs(octaves(told.spec.L)).map(([from, to]) => {
    return { from, to, x: Math.sqrt((from + 1) * to), text: range(from + 1, to) };
  });
  return { all, mean: ({ position }) => all.map(({ from, to }) => average(position.mean, from, to)) };
}

// Where there are many, those of a quarter of an octave together: there is no room for each, and of
// few samples they are noise.
function segments(bins) {
  const groups = bins.length <= MOST_SEGMENTS ? bins.map((_, place) => [place, place + 1]) : pairs(octaves(bins.length));
  const all = groups.map(([first, beyond]) => {
    const [from, to] = [bins[first].from, bins[beyond - 1].to];
    const x = beyond - first === 1 ? (from + to + 1) / 2 : Math.sqrt((from + 1) * to);
    return { from, to, x, text: range(from + 1, to) };
  });
  const sizes = bins.map(({ from, to }) => to - from);
  const mean = ({ segment }) => groups.map(([first, beyond]) => average(segment.mean, first, beyond, sizes));
  return { all, mean };
}

function exposures(told) {
  const tokens = told.tokens.exposure;
  const places = tokens.map((_, place) => place).filter((place) => tokens[place] >= FEWEST_TOKENS);
  const all = places.map((place) => {
    const { from, to } = told.bins.exposure[place];
    const last = to === null ? from : to - 1;
    return { from, to, x: Math.sqrt((from + 1) * (last + 1)), text: range(from, last) };
  });
  return { all, mean: ({ exposure }) => places.map((place) => exposure.mean[place]) };
}

// Four an octave.
function octaves(length) {
  const edges = [0];
  for (let step = 0; edges.at(-1) < length; step++) {
    const edge = Math.min(length, Math.round(2 ** (step / 4)));
    if (edge > edges.at(-1)) edges.push(edge);
  }
  return edges;
}

function pairs(edges) {
  return edges.slice(1).map((to, place) => [edges[place], to]);
}

// With sizes, of that many tokens each.
function average(values, from, to, sizes) {
  let [sum, all] = [0, 0];
  for (let t = from; t < to; t++) {
    const size = sizes?.[t] ?? 1;
    sum += values[t] * size;
    all += size;
  }
  return sum / all;
}

function range(first, last) {
  return first >= last ? String(first) : `${first} to ${last}`;
}

async function publishedCurves(spec, bins, signal) {
  const fits = (curve) => ["V", "n", "l", "L"].every((name) => curve.spec[name] === spec[name]);
  // They fit only what MetaGym's code draws.
  if (spec.profile !== "metagym" || spec.mask_ratio !== 0.3 || spec.language !== null) return [];
  published ??= await (await ask("page/published_curves.json", signal)).json();
  const ends = published.t_end;
  return Object.values(published.curves)
    .filter((curve) => fits(curve) && curve.spec.e_readme === spec.e)
    .map((curve, number) => ({
      key: `published-${number}`,
      name: `published: ${curve.model.split(",")[0]}`,
      kind: `published p${number % 2}`,
      dots: true,
      values: bins.all.map(({ to }) => curve.nll_nats[ends.indexOf(to)] ?? null),
      tail: curve.nll_nats.at(-1),
    }));
}
