// The page: a model and pictures come in by drop, paste or choice; worker.js computes, one picture after the other.
// ?model=address in the address of the page opens that file at once, and &precision=int8 says how.

import { asSentence, bars, element, percent } from "./parts.js";

const SHOWN = 5; // classes
const TINY = 64; // pixels up to which a picture is shown pixel by pixel
const at = (id) => document.getElementById(id);
const [drop, chooser, wish, kinds, precision, facts, results, status, problem] =
  ["drop", "chooser", "wish", "kinds", "precision", "facts", "results", "status", "problem"].map(at);

// ---- the worker -----------------------------------------------------------------------------------------------------

const worker = new Worker("worker.js", { type: "module" });
const asked = new Map(); // what waits for an answer, by its number
let questions = 0;

worker.onmessage = ({ data: { id, answer, error } }) => {
  const { resolve, reject } = asked.get(id);
  asked.delete(id);
  if (error) reject(new Error(error.message));
  else resolve(answer);
};
worker.onerror = () => complain("This browser cannot run the engine: it lacks vectors or exceptions of WebAssembly.");

function ask(question) {
  return new Promise((resolve, reject) => {
    asked.set(++questions, { resolve, reject });
    worker.postMessage({ id: questions, ...question });
  });
}

// ---- the model ------------------------------------------------------------------------------------------------------

let current = null; // what answers: { from, precision, rows }
let wanted = null; // what was asked for last
const cards = [];

// from: a File, or an address.
async function openModel(from) {
  const asked = (wanted = { from, precision: precision.value });
  const name = from.name ?? from.split("/").pop();
  complain("");
  tell([["Model", `${name}, opening ...`]]);
  say(`Opening ${name}.`);
  try {
    const { info, seconds } = await ask({ open: from, precision: asked.precision });
    const rows = [
      ["Model", name],
      ["Architecture", info.architecture],
      ["Sees", `${info.height} x ${info.width} pixels, ${info.channels === 1 ? "grey" : `${info.channels} channels`}`],
      ["Classes", info.classes.toLocaleString("en")],
      ["Weights", `${(info.weightBytes / 2 ** 20).toFixed(1)} MiB in ${info.precision}`],
      ["Opened in", duration(seconds)],
    ];
    current = { ...asked, rows };
    if (wanted !== asked) return; // another one is being opened
    tell(rows);
    wish.textContent = "Drop pictures here";
    kinds.textContent = "or choose files, or paste; another model takes this one's place";
    say(`${name} is open.`);
    cards.forEach(classify); // those that had no model, and those of the one before
  } catch (error) {
    if (wanted !== asked) return;
    wanted = current; // the one before goes on
    tell(current ? current.rows : [["Model", "none"]]);
    if (current) precision.value = current.precision;
    complain(asSentence(error.message));
  }
}

function tell(rows) {
  const row = ([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value));
  facts.replaceChildren(...rows.map(row));
}

// ---- pictures -------------------------------------------------------------------------------------------------------

function addPicture(file) {
  const id = `card-${cards.length + 1}`, name = file.name || "pasted picture";
  const answer = element("div", { class: "answer" }, element("p", { class: "quiet" }, "Waiting for a model ..."));
  const image = element("img", { alt: name, src: URL.createObjectURL(file) });
  image.addEventListener("load", () => {
    URL.revokeObjectURL(image.src); // it is in memory once
    image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= TINY);
  });
  results.prepend(
    element("article", { class: "card", "aria-labelledby": id },
      element("div", { class: "shown" }, element("div", { class: "frame" }, image)),
      element("div", { class: "said" }, element("h2", { id }, name), answer)),
  );
  const card = { file, name, answer };
  cards.push(card);
  if (current) classify(card);
}

async function classify({ file, name, answer }) {
  answer.setAttribute("aria-busy", "true");
  try {
    const { classes, prepare, compute } = await ask({ classify: file, k: SHOWN });
    const time = `Decoded and prepared in ${duration(prepare)}, computed in ${duration(compute)}.`;
    answer.replaceChildren(bars(classes), element("p", { class: "quiet latency" }, time));
    say(`${name}: ${classes[0].name}, ${percent(classes[0].score)}.`);
  } catch (error) {
    answer.replaceChildren(element("p", { class: "error" }, asSentence(error.message)));
    say(`${name}: ${error.message}.`);
  } finally {
    answer.removeAttribute("aria-busy");
  }
}

// ---- what comes in --------------------------------------------------------------------------------------------------

function take(files) {
  for (const file of files) {
    if (file.type.startsWith("image/")) addPicture(file);
    else openModel(file); // whatever it is: the engine says what is wrong with it
  }
}

chooser.addEventListener("change", () => {
  take(chooser.files);
  chooser.value = ""; // the same file may be chosen again
});
addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
precision.addEventListener("change", () => wanted && openModel(wanted.from));

const query = new URLSearchParams(location.search);
if (query.has("precision")) precision.value = query.get("precision") === "int8" ? "int8" : "fp32";
if (query.has("model")) openModel(new URL(query.get("model"), location).href);

// ---- words ----------------------------------------------------------------------------------------------------------

function complain(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

// What a screen reader is told.
function say(text) {
  status.textContent = text;
}

function duration(seconds) {
  return seconds < 0.9995 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}
