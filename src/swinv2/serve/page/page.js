// What happens at /: pictures come in by drop, paste or choice, one after the other they are asked about.

import { Card } from "./card.js";
import { element } from "./parts.js";
import { ask, tokenForm } from "./server.js";

const MOST = 100; // pictures on the page: each keeps its file in memory
const AGAIN = 1000; // milliseconds until a server that has no models yet is asked again

const at = (id) => document.getElementById(id);
const [drop, chooser, choice, facts, results, status, problem, clear] =
  ["drop", "chooser", "model", "facts", "results", "status", "problem", "clear"].map(at);
const wantToken = tokenForm(at("token"), begin);

let models = [];
let limits = { body_bytes: Infinity };
const cards = [];
const waiting = []; // cards that are still to be asked about
let isAsking = false;

async function begin() {
  try {
    const told = await (await ask("/models")).json();
    [models, limits] = [told.models, told.limits];
  } catch (refusal) {
    if (refusal.status === 401) wantToken();
    else complain(refusal.message);
    return;
  }
  if (!models.length) {
    complain("No model answers yet. This page looks again every second.");
    setTimeout(begin, AGAIN);
    return;
  }
  complain("");
  const before = choice.value;
  choice.replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
  if (models.some(({ name }) => name === before)) choice.value = before;
  at("choice").hidden = models.length < 2;
  describe();
  askNext();
}

const chosen = () => models.find(({ name }) => name === choice.value);

function describe() {
  const { name, version, architecture, runtime, precision, device, classes, input, not_explained } = chosen();
  const [channels, height, width] = input;
  const rows = [
    models.length > 1 ? ["Version", version] : ["Model", `${name}, version ${version}`],
    ["Architecture", architecture],
    ["Computed by", `${runtime} in ${precision} on ${device}`],
    ["Sees", `${height} x ${width} pixels, ${channels === 1 ? "grey" : `${channels} channels`}`],
    ["Classes", classes.toLocaleString("en")],
  ];
  if (not_explained) rows.push(["Where it looked", `not shown: ${not_explained}`]);
  facts.replaceChildren(...rows.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))));
}

function complain(sentence) {
  problem.textContent = sentence;
  problem.hidden = !sentence;
}

// What a screen reader is told; one element is enough, since answers come one after the other.
function say(sentence) {
  status.textContent = sentence;
}

function take(files) {
  const free = MOST - cards.length;
  const taken = [...files].slice(0, Math.max(free, 0));
  const left = files.length - taken.length;
  complain(left ? `The page holds ${MOST} pictures; ${left} were left out. Clear it for more.` : "");
  const fresh = [];
  for (const file of taken) {
    const card = new Card(file, say);
    if (file.size > limits.body_bytes) {
      const [has, may] = [file.size, limits.body_bytes].map((bytes) => `${Math.round(bytes / 2 ** 20)} MiB`);
      card.refuse(new Error(`The file has ${has} and the server takes ${may}; make it smaller.`));
    } else {
      fresh.push(card);
    }
    cards.push(card);
    results.prepend(card.node);
  }
  waiting.push(...fresh);
  clear.hidden = !cards.length;
  askNext();
}

// One at a time: the figures of a picture are then its own.
async function askNext() {
  if (isAsking || !models.length) return;
  isAsking = true;
  while (waiting.length) {
    const card = waiting.shift();
    try {
      await card.predict(chosen());
    } catch (refusal) {
      if (refusal.status === 401) {
        waiting.unshift(card);
        wantToken();
        break;
      }
    }
  }
  isAsking = false;
}

chooser.addEventListener("change", () => {
  take(chooser.files);
  chooser.value = ""; // the same file may be chosen again
});

choice.addEventListener("change", () => {
  describe();
  waiting.splice(0, waiting.length, ...cards.filter((card) => card.file.size <= limits.body_bytes));
  askNext();
});

clear.addEventListener("click", () => {
  waiting.length = 0;
  for (const card of cards.splice(0)) card.end();
  clear.hidden = true;
  say("No pictures are shown.");
  chooser.focus();
});

// A drop anywhere on the page counts: a picture that misses the field must not replace the page.
let depth = 0; // dragenter and dragleave also come for every element inside
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => hasFiles(event) && drop.classList.toggle("over", ++depth > 0));
document.addEventListener("dragleave", (event) => hasFiles(event) && drop.classList.toggle("over", --depth > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else complain("That was no file. Save the picture first, or copy it and paste it here.");
});

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (files.length) {
    event.preventDefault();
    take(files);
  } else if (event.target.tagName !== "INPUT") {
    complain("The clipboard holds no picture.");
  }
});

begin();
