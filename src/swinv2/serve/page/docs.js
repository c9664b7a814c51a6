// What happens at /docs: the OpenAPI document of the server, drawn.

import { element } from "./parts.js";
import { ask, tokenForm } from "./server.js";

const TAGS = {
  people: "For people and small programs",
  protocol: "The protocol",
  repository: "Loading and unloading models",
};
const FILE = "photo.jpg";
const UNUSED = "422"; // FastAPI's own: what cannot be meant is 400 here

const problem = document.getElementById("problem");
const wantToken = tokenForm(document.getElementById("token"), begin);

async function begin() {
  try {
    draw(await (await ask("/openapi.json")).json());
  } catch (refusal) {
    if (refusal.status === 401) return wantToken();
    problem.textContent = refusal.message;
    problem.hidden = false;
  }
}

function draw({ paths, components }) {
  const groups = Object.fromEntries(Object.keys(TAGS).map((tag) => [tag, []]));
  const everywhere = refusals(Object.values(paths).flatMap(Object.values));
  for (const [path, methods] of Object.entries(paths).sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const [method, about] of Object.entries(methods)) {
      const tag = about.tags?.[0] ?? "people";
      (groups[tag] ??= []).push(operation(path, method, about, components, everywhere));
    }
  }
  const sections = Object.entries(groups).filter(([, rows]) => rows.length).map(([tag, rows]) => {
    const id = `tag-${tag}`;
    const title = element("h2", { id }, TAGS[tag] ?? tag);
    return element("section", { "aria-labelledby": id }, title, element("div", { class: "panel" }, ...rows));
  });
  const said = element("p", { class: "quiet" }, 'Each is {"error": "one sentence"}.');
  const last = element("div", { class: "panel inside" }, table("Refusals", Object.entries(everywhere)));
  const ending = element("section", { "aria-labelledby": "refusals" }, element("h2", { id: "refusals" }, "Refusals"), said, last);
  document.getElementById("operations").replaceChildren(...sections, ending);
}

// What all operations answer alike is said once: code -> description.
function refusals(operations) {
  const [first, ...others] = operations.map((about) => about.responses);
  const rows = Object.entries(first).map(([code, { description }]) => [code, description]);
  const isSame = ([code, text]) => others.every((one) => one[code]?.description === text);
  return Object.fromEntries(rows.filter((row) => row[0] >= 400 && row[0] !== UNUSED && isSame(row)));
}

function operation(path, method, about, components, everywhere) {
  const name = element("span", { class: `method ${method}` }, method.toUpperCase());
  const summary = element("summary", {}, name, element("code", {}, path), element("span", { class: "quiet" }, about.summary ?? ""));
  const inside = element("div", { class: "inside" });
  if (about.description) inside.append(element("p", {}, about.description));
  inside.append(element("h3", {}, "On a command line"), element("pre", {}, curl(path, method, about)));
  if (about.parameters?.length) {
    const rows = about.parameters.map((one) => [one.name, `${one.in}, ${kind(one.schema)}. ${one.description ?? ""}`]);
    inside.append(element("h3", {}, "Parameters"), table("Parameters", rows));
  }
  for (const [type, { schema, example }] of Object.entries(about.requestBody?.content ?? {})) {
    inside.append(element("h3", {}, `Body as ${type}`), block(example ?? schema?.example ?? schema, components));
  }
  const answers = Object.entries(about.responses)
    .filter(([code]) => !(code in everywhere) && code !== UNUSED)
    .map(([code, { description }]) => [code, description === "Successful Response" ? "the answer" : description]);
  inside.append(element("h3", {}, "Answers"), table("Answers", answers));
  for (const [type, { schema, example }] of Object.entries(about.responses["200"]?.content ?? {})) {
    const shown = example ?? schema ?? {};
    if (Object.keys(shown).length) inside.append(element("h3", {}, `200 as ${type}`), block(shown, components));
  }
  return element("details", {}, summary, inside);
}

// A command that asks as the document says.
function curl(path, method, { requestBody, parameters = [] }) {
  const query = parameters.filter((one) => one.in === "query" && one.required).map((one) => `${one.name}=...`);
  const address = location.origin + path + (query.length ? `?${query.join("&")}` : "");
  const words = ["curl"];
  const content = requestBody?.content ?? {};
  if ("image/*" in content) words.push(`--data-binary @${FILE}`);
  else if ("application/json" in content) {
    const { schema } = content["application/json"];
    words.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(schema.example ?? {})}'`);
  } else if (method === "post") words.push("-X POST");
  words.push(/[{?&]/.test(address) ? `'${address}'` : address);
  return words.join(" ");
}

// Names -> what they are; the names are headers of their rows.
function table(label, rows) {
  return element("table", { "aria-label": label }, element("tbody", {}, ...rows.map(([name, text]) =>
    element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)), element("td", {}, text)))));
}

function block(value, components) {
  return element("pre", {}, JSON.stringify(resolved(value, components), null, 2));
}

// References to components are replaced by what they mean; a schema that holds itself stays a name there.
function resolved(value, components, inside = []) {
  if (Array.isArray(value)) return value.map((one) => resolved(one, components, inside));
  if (value === null || typeof value !== "object") return value;
  const name = value.$ref?.split("/").pop();
  if (name) return inside.includes(name) ? name : resolved(components.schemas[name], components, [...inside, name]);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolved(one, components, inside)]));
}

const kind = (schema) => schema.type ?? schema.anyOf?.map((one) => one.type).filter((type) => type !== "null").join(" or ") ?? "any";

begin();
