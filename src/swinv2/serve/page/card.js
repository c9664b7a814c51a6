// One picture with its answer: the classes as bars, where the time went, where the model looked.

import { bars, element, percent } from "./parts.js";
import { ask } from "./server.js";

const SHOWN = 5; // classes
const TINY = 64; // pixels up to which a picture is shown pixel by pixel
const PARTS = [
  ["decode", "Decode", "bytes to the tensor that the model takes"],
  ["queue", "Queue", "waiting for others to be computed"],
  ["compute", "Compute", "the model"],
  ["network", "Network", "all the rest: the way there and back, and this browser"],
];

let cards = 0;

export class Card {
  // file: a File. say: called with what a screen reader is to hear.
  constructor(file, say) {
    [this.file, this.say] = [file, say];
    this.name = file.name || "pasted picture";
    this.model = null;
    this.overlay = "";
    this.address = URL.createObjectURL(file);
    const id = `card-${++cards}`;
    const title = element("h2", { id }, this.name);
    this.image = element("img", { alt: this.name, src: this.address });
    this.image.addEventListener("load", () => this.image.classList.toggle("tiny", this.isTiny()));
    this.image.addEventListener("error", () => this.frame.classList.add("unshown"));
    this.frame = element("div", { class: "frame" }, this.image);
    this.look = element("div", { class: "look" });
    this.answer = element("div", { class: "answer" }, element("p", { class: "quiet" }, "Waiting ..."));
    const shown = element("div", { class: "shown" }, this.frame, this.look);
    const said = element("div", { class: "said" }, title, this.answer);
    this.node = element("article", { class: "card", "aria-labelledby": id }, shown, said);
  }

  isTiny() {
    return Math.max(this.image.naturalWidth, this.image.naturalHeight) <= TINY;
  }

  // Ask a model what the picture shows. Throws what ask() throws, once the card says so.
  async predict(model) {
    this.model = model;
    this.answer.setAttribute("aria-busy", "true");
    try {
      const begun = performance.now();
      const path = `/predict?top_k=${SHOWN}&model=${encodeURIComponent(model.name)}`;
      const answer = await ask(path, { method: "POST", body: this.form() });
      const told = await answer.json();
      this.show(told, performance.now() - begun);
    } catch (refusal) {
      this.refuse(refusal);
      throw refusal;
    } finally {
      this.answer.removeAttribute("aria-busy");
    }
  }

  form() {
    const form = new FormData();
    form.append("image", this.file, this.name);
    return form;
  }

  show({ version, results, timing }, total) {
    const [{ predictions }] = results;
    const by = `${this.model.name}, version ${version}`;
    this.answer.replaceChildren(bars(predictions), latency(timing, total), element("p", { class: "quiet by" }, by));
    this.forget();
    if (!this.model.not_explained) this.look.replaceChildren(...this.lookControls(predictions));
    this.say(`${this.name}: ${predictions[0].name}, ${percent(predictions[0].score)}.`);
  }

  refuse(refusal) {
    this.answer.replaceChildren(element("p", { class: "error" }, refusal.message));
    this.forget();
    this.say(`${this.name}: ${refusal.message}`);
  }

  // -- where the model looked --------------------------------------------------------------------------------

  lookControls(predictions) {
    const button = element("button", { type: "button", "aria-pressed": "false" }, "Where it looked");
    const choice = element("select", { "aria-label": `Class that is looked for in ${this.name}` });
    choice.append(...predictions.map(({ class_id, name }) => element("option", { value: class_id }, name)));
    const note = element("p", { class: "quiet", hidden: "" });
    const draw = async () => {
      const isOn = button.getAttribute("aria-pressed") === "true";
      if (!isOn) return this.forgetOverlay(note);
      note.hidden = false;
      note.textContent = "Looking; the first time takes some seconds ...";
      const name = choice.selectedOptions[0].textContent;
      const turn = (this.turn = {}); // a later wish makes this one void
      try {
        const about = await this.explain(choice.value, turn);
        if (!about) return;
        note.textContent = about.is_empty
          ? `Nothing in the picture speaks for ${name}.`
          : `Bright where most speaks for ${name} (Grad-CAM).${about.is_whole ? "" : " Dark: what the model does not see."}`;
        this.say(note.textContent);
      } catch (refusal) {
        if (this.turn !== turn) return;
        button.setAttribute("aria-pressed", "false");
        this.forgetOverlay(note);
        note.hidden = false;
        note.textContent = refusal.message;
        this.say(refusal.message);
      }
    };
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      draw();
    });
    choice.addEventListener("change", () => button.getAttribute("aria-pressed") === "true" && draw());
    return [element("div", { class: "row" }, button, element("span", { class: "quiet" }, "for"), choice), note];
  }

  async explain(classId, turn) {
    const path = `/explain?model=${encodeURIComponent(this.model.name)}&class_id=${classId}`;
    const answer = await ask(path, { method: "POST", body: this.form() });
    const picture = await answer.blob();
    if (this.turn !== turn) return null;
    if (this.overlay) URL.revokeObjectURL(this.overlay);
    this.overlay = URL.createObjectURL(picture);
    this.image.src = this.overlay;
    this.image.alt = `${this.name} under the map of where the model looked`;
    this.frame.classList.remove("unshown");
    return JSON.parse(answer.headers.get("swinv2-explanation"));
  }

  forgetOverlay(note) {
    this.turn = null;
    this.image.src = this.address;
    this.image.alt = this.name;
    if (this.overlay) URL.revokeObjectURL(this.overlay);
    this.overlay = "";
    if (note) note.hidden = true;
  }

  // What belonged to an earlier answer.
  forget() {
    if (this.overlay || this.turn) this.forgetOverlay();
    this.look.replaceChildren();
  }

  // The card leaves the page.
  end() {
    this.forgetOverlay();
    URL.revokeObjectURL(this.address);
    this.node.remove();
  }
}

// Where the time of an answer went. total: milliseconds from the request to the parsed answer, as this page saw it.
function latency(timing, total) {
  const spent = { decode: timing.decode_ms, queue: timing.queue_ms, compute: timing.compute_ms };
  spent.network = Math.max(total - spent.decode - spent.queue - spent.compute, 0);
  const whole = Object.values(spent).reduce((sum, value) => sum + value, 0);
  const bar = element("div", { class: "split", "aria-hidden": "true" });
  const legend = element("dl", { class: "legend" });
  for (const [key, name, meaning] of PARTS) {
    const part = element("span", { class: key });
    part.style.flexGrow = String(spent[key] / whole);
    bar.append(part);
    const term = element("dt", {}, element("i", { class: key }), name);
    legend.append(element("div", { title: meaning }, term, element("dd", {}, `${spent[key].toFixed(1)} ms`)));
  }
  const head = element("h3", {}, "Answered in ", element("b", {}, `${whole.toFixed(1)} ms`));
  return element("div", { class: "latency" }, head, bar, legend);
}
