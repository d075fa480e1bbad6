// What is asked for and how it is shown: the address has all of it. Values are text, as the
// service takes them: a seed of 64 bits is no number here, and what is wrong is the service's to say.

export const SPEC = ["V", "n", "l", "e", "L", "mask_ratio", "profile", "language"];
export const STREAM = ["split", "seed", "index"];
// The usual one first.
const CHOICES = {
  show: ["x", "y"],
  view: ["flow", "aligned"],
  cells: ["numbers", "dots"],
  by: ["position", "exposure"],
  ladder: ["", "1"],
};
const VIEW = { ...Object.fromEntries(Object.entries(CHOICES).map(([name, [usual]]) => [name, usual])), element: "" };

// Small enough to see all of a language at once.
const FIRST_LOOK = { V: "32", n: "5", l: "10", e: "0.1", L: "1024" };
const PUBLISHED = { V: "64", e: "0.1", L: "4096", mask_ratio: "0.3", profile: "metagym" };
export const SETTINGS = [
  ["first look", FIRST_LOOK],
  ["5 elements of 32, published", { ...PUBLISHED, n: "5", l: "32" }],
  ["10 elements of 32, published", { ...PUBLISHED, n: "10", l: "32" }],
  ["10 elements of 64, published", { ...PUBLISHED, n: "10", l: "64" }],
  ["the defaults", {}],
  ["50 elements, 20 000 tokens", { n: "50", L: "20000" }],
];

export const defaults = {};

// `of`: the values of the API, by name.
export function begin(of) {
  Object.assign(defaults, of);
}

export function settingOf(state) {
  const found = SETTINGS.findIndex(([, setting]) => {
    const whole = spec(setting);
    return SPEC.every((name) => same(whole[name], state[name]));
  });
  return found < 0 ? "" : String(found);
}

export function spec(setting) {
  return Object.fromEntries(SPEC.map((name) => [name, setting[name] ?? defaults[name]]));
}

function same(one, other) {
  return one === other || (one !== "" && other !== "" && Number(one) === Number(other));
}

export function differs(state, name) {
  return !same(state[name], defaults[name]);
}

export function read(search) {
  const given = new URLSearchParams(search);
  const bare = ![...SPEC, ...STREAM].some((name) => given.has(name));
  const base = { ...defaults, ...(bare ? FIRST_LOOK : {}), seed: "7", ...VIEW };
  const chosen = (name) => (CHOICES[name]?.includes(given.get(name)) ?? true) && given.get(name);
  return Object.fromEntries(Object.entries(base).map(([name, value]) => [name, chosen(name) || value]));
}

// The query of the address: what is asked for in full, of the view what is not usual.
export function written(state) {
  const pairs = [...SPEC, ...STREAM].filter((name) => state[name] !== "").map((name) => [name, state[name]]);
  for (const [name, usual] of Object.entries(VIEW)) {
    if (state[name] !== usual) pairs.push([name, state[name]]);
  }
  return `?${new URLSearchParams(pairs)}`;
}

// The query of the same sample at the API.
export function query(state, names = [...SPEC, ...STREAM]) {
  return new URLSearchParams(names.filter((name) => state[name] !== "").map((name) => [name, state[name]]));
}
