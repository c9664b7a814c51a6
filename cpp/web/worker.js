// A model beside a page: it computes here, so that the page goes on.
//
//     const worker = new Worker("worker.js", { type: "module" });
//     worker.postMessage({ id: 1, open: file, precision: "int8" });    // { id: 1, answer: { info, record, seconds } }
//     worker.postMessage({ id: 2, classify: picture, k: 5 });         // { id: 2, answer: { classes, prepare, compute }}
//
// prepare, compute: seconds. A refusal is { id, error: { message, status } }.

import { pixelsOf } from "./pixels.js";
import { SwinV2Error, open } from "./swinv2.js";

let model = null;
let last = Promise.resolve(); // one after the other, in the order of the questions

self.onmessage = ({ data: { id, ...asked } }) => {
  last = last.then(() => answer(asked)).then(
    (told) => self.postMessage({ id, answer: told }),
    ({ message, status }) => self.postMessage({ id, error: { message, status } }),
  );
};

async function answer(asked) {
  if ("open" in asked) {
    const begun = performance.now();
    const next = await open(asked.open, { precision: asked.precision });
    model?.close(); // not before: where the next one cannot be opened, this one goes on
    model = next;
    return { info: model.info, record: model.record, seconds: since(begun) };
  }
  if (!model) throw new SwinV2Error("there is no model yet; open one", -1);
  const { channels, height, width } = model.info;
  const begun = performance.now();
  const images = model.prepare(await pixelsOf(asked.classify));
  const prepared = performance.now();
  const classes = model.rank(model.run(images, [1, channels, height, width]), asked.k);
  return { classes, prepare: (prepared - begun) / 1000, compute: since(prepared) };
}

function since(begun) {
  return (performance.now() - begun) / 1000;
}
