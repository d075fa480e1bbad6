// The lines that give what is on the screen, byte for byte.

import { ask, hasToken, urlOf } from "./api.js";
import { differs, query } from "./state.js";

const ALWAYS = ["V", "n", "l", "e", "L"];
const OTHERS = ["mask_ratio", "profile", "language"];
const WORDS = new Set(["profile", "split"]);
const ODD = /[^\w:/.~%[\]-]/g; // in a path, which is between quotes of shells and of Python
const FLOATS = new Set(["l", "e", "mask_ratio"]);

// `state` is one that the service has answered: nothing else ever becomes code.
export function snippets(state) {
  const url = urlOf("").replace(/\/$/, "").replace(ODD, (mark) => `%${mark.charCodeAt(0).toString(16)}`);
  const names = [...ALWAYS, ...OTHERS.filter((name) => differs(state, name))];
  const split = differs(state, "split") ? ["split"] : [];
  const of = Object.fromEntries([...names, "split", "seed", "index"].map((name) => [name, plain(name, state[name])]));
  const python = [...names, "seed", ...split].map((name) => `${name}=${WORDS.has(name) ? `"${of[name]}"` : of[name]}`);
  const flags = names.map((name) => `${name.length === 1 ? `-${name}` : `--${name}`} ${of[name]}`);
  const where = new URLSearchParams([...names, "seed", ...split, "index"].map((name) => [name, of[name]]));
  const plaintext = url.startsWith("http://") && !/^(localhost|127\.|\[::1\])/.test(location.host);
  const shown = hasToken()
    ? { import: "import os\n\n", python: `, token=os.environ["METALM_TOKEN"]${plaintext ? ", allow_plaintext_token=True" : ""}` }
    : { import: "", python: "" };
  const curl = hasToken() ? `curl -H "Authorization: Bearer $METALM_TOKEN"` : "curl";
  const shell = hasToken() && plaintext ? " --allow-plaintext-token" : "";
  return [
    ["curl", `${curl} '${url}/sample?${where}'`],
    [
      "shell",
      `metalm sample --url '${url}'${shell} ${flags.join(" ")} --seed ${of.seed}${split.map(() => ` --split ${of.split}`).join("")} --index ${of.index}`,
    ],
    [
      "Python",
      `${shown.import}from metalm import MetaLMClient

client = MetaLMClient("${url}"${shown.python})
batches = client.batches(
    ${python.join(", ")},
    start=${of.index}, batch_size=1,
)
x, y = next(batches)`,
    ],
    [
      "gym",
      `${shown.import}import gymnasium
import metalm.gym

env = gymnasium.make(
    "meta-lm-v0", url="${url}"${shown.python},
    ${python.join(", ")},
)
env.position = ${of.index}
x, y = env.data_generator()`,
    ],
  ];
}

// As Python, too, writes it: no +7, no 007.
function plain(name, text) {
  if (WORDS.has(name) || text === "") return text;
  return FLOATS.has(name) ? String(Number(text)) : String(BigInt(text));
}

export function showSnippets(list, state) {
  const blocks = snippets(state);
  if (list.childElementCount === 0) list.append(...blocks.map(([name]) => block(name)));
  blocks.forEach(([, text], place) => {
    list.children[place].querySelector("code").replaceChildren(...withWholeFlags(text));
  });
}

// No line ends after the hyphen of a flag.
function withWholeFlags(text) {
  return text.split(/(?<=\s)(--?[a-z_-]+)/i).map((part, place) => {
    if (place % 2 === 0) return part;
    const flag = document.createElement("span");
    flag.textContent = part;
    return flag;
  });
}

function block(name) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.setAttribute("aria-label", `Copy the ${name} lines`);
  // The button keeps its name, whatever is written on it.
  const said = document.createElement("span");
  said.className = "unseen";
  said.setAttribute("role", "status");
  caption.append(name, said, button);
  const text = document.createElement("pre");
  text.tabIndex = 0;
  text.setAttribute("aria-label", `${name} lines`);
  text.setAttribute("role", "region");
  const code = document.createElement("code");
  text.append(code);
  button.addEventListener("click", async () => {
    button.textContent = (await copied(code)) ? "copied" : "press Ctrl-C";
    said.textContent = button.textContent;
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  figure.append(caption, text);
  return figure;
}

async function copied(code) {
  // Over plain HTTP from another machine there is no clipboard: then the lines are selected.
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}

// Fetched here and not by the browser: a token goes with it, and a refusal is told.
export function offer(links, state, failed) {
  for (const link of links) {
    const form = link.dataset.format;
    const path = `sample?${query(state)}&format=${form}`;
    const name = `metalm-seed${state.seed}-${state.index}.${{ text: "txt", npz: "npz", protobuf: "pb" }[form]}`;
    link.href = urlOf(path);
    link.download = name;
    link.onclick = async (event) => {
      event.preventDefault();
      try {
        const blob = await (await ask(path)).blob();
        const saved = document.createElement("a");
        saved.href = URL.createObjectURL(blob);
        saved.download = name;
        saved.click();
        setTimeout(() => URL.revokeObjectURL(saved.href), 60_000);
      } catch (problem) {
        failed(problem);
      }
    };
  }
}
