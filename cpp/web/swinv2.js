// Swin Transformer V2 wherever JavaScript runs: a page, a worker, Node.js. The engine is swinv2.wasm beside this file.
//
//     import { open } from "./swinv2.js";
//     import { pixelsOf } from "./pixels.js";
//
//     const model = await open("model.safetensors");
//     const [best] = model.classify(await pixelsOf(file), 5); // { index, name, score }
//
// The file is the one that `swinv2 train` and `swinv2 convert` write: architecture, preprocessing and class names are
// inside. Nothing is asked of anybody but the file. A call computes until it returns: give it a worker of its own where
// somebody looks at the page meanwhile (worker.js).

const ENGINE = new URL("swinv2.wasm", import.meta.url);
const MOST_BYTES = 2 ** 32; // that WebAssembly can address
const [INTERNAL, NO_MEMORY, UNSUPPORTED, NO_FILE, BAD_ARGUMENT] = [-7, -6, -5, -2, -1]; // of swinv2.h

// What went wrong, as one sentence. status: a swinv2_status of swinv2.h.
export class SwinV2Error extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.name = "SwinV2Error";
    this.status = status;
  }
}

// Opens a model file: its address, a Blob (as a File is), or its bytes (an ArrayBuffer or a Uint8Array).
// precision: "fp32" or "int8". engine: the compiled swinv2.wasm, or its address, where it is not beside this file.
// Throws a SwinV2Error.
export async function open(source, { precision = "fp32", engine = ENGINE } = {}) {
  const [bytes, module] = await Promise.all([bytesOf(source), compiled(engine)]);
  return new Model(await Engine.start(module), bytes, precision);
}

export class Model {
  #engine;
  #handle;

  // Use open().
  constructor(engine, bytes, precision) {
    this.#engine = engine;
    this.#handle = engine.with([bytes.length, 4, 16, 16], ([file, handle, options, text]) => {
      engine.bytes(file, bytes.length).set(bytes);
      engine.bytes(text, 16).fill(0).set(new TextEncoder().encode(precision).subarray(0, 15));
      const view = engine.view();
      for (const [i, value] of [1, 1, text, 0].entries()) view.setUint32(options + 4 * i, value, true);
      engine.call("swinv2_open_bytes", file, bytes.length, options, handle);
      return engine.view().getUint32(handle, true);
    });
    const [architecture, rounding, instructions, , classes, channels, height, width, , weightBytes] =
      engine.words(engine.exports.swinv2_describe(this.#handle), 10);
    // What the model is, as swinv2_info of swinv2.h. height, width: of the image that preprocessing makes.
    this.info = Object.freeze({
      architecture: engine.text(architecture),
      precision: engine.text(rounding),
      instructions: engine.text(instructions),
      classes, channels, height, width, weightBytes,
    });
    // All that the file says of itself (docs/weights.md).
    this.record = JSON.parse(engine.text(engine.exports.swinv2_record(this.#handle)));
  }

  // The k likeliest classes of a picture, best first: [{ index, name, score }], scores from 0 to 1.
  // picture: { data, width, height }, rows of pixels with 1 (grey), 3 or 4 bytes each, not premultiplied; an ImageData
  // is one. What is transparent is seen on white.
  classify(picture, k = 5) {
    const { channels, height, width } = this.info;
    return this.rank(this.run(this.prepare(picture), [1, channels, height, width]), k);
  }

  // Resize, crop and normalise as the file says: a Float32Array [channels, height, width]. The same as the Python
  // package, to the last bit.
  prepare(picture) {
    const { channels, height, width } = this.info;
    const pixels = inChannels(picture, channels);
    return this.#open().with([pixels.length, 4 * channels * height * width], ([from, to]) => {
      this.#engine.bytes(from, pixels.length).set(pixels);
      this.#engine.call("swinv2_prepare_pixels", this.#handle, from, picture.width, picture.height, 0, to);
      return this.#engine.floats(to, channels * height * width).slice();
    });
  }

  // The network alone. images: a Float32Array of the shape [batch, channels, height, width], normalised, any height and
  // width. Returns the logits, a Float32Array [batch, classes].
  run(images, shape) {
    const [batch, channels, height, width] = shape;
    if (!shape.every((length) => Number.isInteger(length) && length > 0) || channels !== this.info.channels)
      throw new SwinV2Error(`images are [${shape}]; give [batch, ${this.info.channels}, height, width]`, BAD_ARGUMENT);
    if (images.length !== batch * channels * height * width)
      throw new SwinV2Error(`images have ${images.length} values and are to be [${shape}]`, BAD_ARGUMENT);
    const logits = batch * this.info.classes;
    return this.#open().with([4 * images.length, 4 * logits], ([from, to]) => {
      this.#engine.floats(from, images.length).set(images);
      this.#engine.call("swinv2_run", this.#handle, from, BigInt(batch), height, width, to);
      return this.#engine.floats(to, logits).slice();
    });
  }

  // The k likeliest classes of the logits of one image.
  rank(logits, k = 5) {
    if (!Number.isInteger(k) || k < 1) throw new SwinV2Error(`k is ${k}; give at least 1`, BAD_ARGUMENT);
    if (logits.length !== this.info.classes)
      throw new SwinV2Error(`logits are ${logits.length}; the model has ${this.info.classes} classes`, BAD_ARGUMENT);
    const most = Math.min(k, this.info.classes);
    return this.#open().with([4 * logits.length, 12 * most], ([from, top]) => {
      this.#engine.floats(from, logits.length).set(logits);
      const count = this.#engine.call("swinv2_rank", this.#handle, from, most, top);
      return Array.from({ length: count }, (_, i) => {
        const [index, , name] = this.#engine.words(top + 12 * i, 3);
        return { index, name: this.#engine.text(name), score: this.#engine.view().getFloat32(top + 12 * i + 4, true) };
      });
    });
  }

  // Of the model and of all that it has computed with: memory of WebAssembly grows and does not shrink.
  get memoryBytes() {
    return this.#open().view().byteLength;
  }

  // Gives its memory back: every model has an engine of its own.
  close() {
    this.#engine = null;
  }

  #open() {
    if (!this.#engine) throw new SwinV2Error("the model is closed", BAD_ARGUMENT);
    return this.#engine;
  }
}

// ---- the C interface ------------------------------------------------------------------------------------------------

// A running swinv2.wasm. Addresses are unsigned; the memory moves when it grows, so that views of it are made anew.
class Engine {
  static async start(module) {
    const imports = {
      env: { emscripten_notify_memory_growth: () => {} },
      wasi_snapshot_preview1: {
        proc_exit: () => {
          throw new SwinV2Error("the engine ended; please report it", INTERNAL);
        },
      },
    };
    const engine = new Engine();
    engine.exports = (await WebAssembly.instantiate(module, imports)).exports;
    engine.exports._initialize();
    return engine;
  }

  // work() with rooms in memory of these many bytes, which are given back after it.
  with(sizes, work) {
    const rooms = [];
    try {
      for (const size of sizes) {
        const room = size < MOST_BYTES ? this.exports.malloc(size || 1) >>> 0 : 0;
        const much = `${Math.ceil(size / 2 ** 20)} MiB`;
        if (!room) throw new SwinV2Error(`there is not enough memory for ${much} more`, NO_MEMORY);
        rooms.push(room);
      }
      return work(rooms);
    } finally {
      rooms.forEach((room) => this.exports.free(room));
    }
  }

  // Calls a function that returns a status; throws the sentence of one that fails.
  call(name, ...values) {
    const status = this.exports[name](...values);
    if (status < 0) throw new SwinV2Error(this.text(this.exports.swinv2_last_error()), status);
    return status;
  }

  view() {
    return new DataView(this.exports.memory.buffer);
  }

  bytes(at, count) {
    return new Uint8Array(this.exports.memory.buffer, at, count);
  }

  floats(at, count) {
    return new Float32Array(this.exports.memory.buffer, at, count);
  }

  words(at, count) {
    return Array.from(new Uint32Array(this.exports.memory.buffer, at >>> 0, count));
  }

  text(at) {
    const bytes = new Uint8Array(this.exports.memory.buffer, at >>> 0);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

const compilations = new Map();

// The compiled engine; compiled once, however many models are opened.
function compiled(engine) {
  if (engine instanceof WebAssembly.Module) return engine;
  const address = String(engine);
  if (!compilations.has(address)) {
    const work = bytesOf(engine).then((bytes) => WebAssembly.compile(bytes).catch(({ message }) => {
      throw new SwinV2Error(`${address} is no engine that can run here: ${message}`, UNSUPPORTED);
    }));
    work.catch(() => compilations.delete(address)); // it may be there the next time
    compilations.set(address, work);
  }
  return compilations.get(address);
}

async function bytesOf(source) {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  if (source instanceof URL && source.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(source);
  }
  const answer = await fetch(source).catch((error) => {
    throw new SwinV2Error(`${source} cannot be fetched: ${error.message}`, NO_FILE);
  });
  if (!answer.ok) throw new SwinV2Error(`${source} cannot be fetched: the server says ${answer.status}`, NO_FILE);
  return new Uint8Array(await answer.arrayBuffer());
}

// ---- pixels ---------------------------------------------------------------------------------------------------------

// The pixels of a picture with as many bytes each as a model has channels, in the arithmetic of Pillow and the engine.
function inChannels({ data, width, height }, channels) {
  const count = width * height, given = data.length / count;
  if (!(count > 0) || ![1, 3, 4].includes(given)) {
    const has = `a picture of ${width} x ${height} pixels has ${data.length} bytes`;
    throw new SwinV2Error(`${has}; give 1, 3 or 4 for each`, BAD_ARGUMENT);
  }
  if (given === channels) return data;
  const pixels = new Uint8Array(count * channels), colour = new Uint8Array(3);
  for (let from = 0, to = 0; to < pixels.length; from += given) {
    for (let c = 0; c < 3; c++) {
      const value = data[from + (given > 1 ? c : 0)];
      colour[c] = given === 4 ? onWhite(value, data[from + 3]) : value;
    }
    if (channels === 1) pixels[to++] = luminance(colour);
    else for (let c = 0; c < 3; c++) pixels[to++] = colour[c];
  }
  return pixels;
}

function onWhite(value, alpha) {
  const sum = (value * alpha + 255 * (255 - alpha) + 128) << 7;
  return ((sum >> 8) + sum) >> 15;
}

function luminance([red, green, blue]) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}
