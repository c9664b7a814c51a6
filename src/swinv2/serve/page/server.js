// How the pages ask the server: with the token where it wants one, and every refusal as its sentence.

import { asSentence } from "./parts.js";

const KEPT = "swinv2-token"; // in this tab only, until it is closed

// A refusal. status: the code of HTTP; 0 where there was no answer at all.
export class Refusal extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

// fetch() with the token. Throws a Refusal unless the answer is a success.
export async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEPT);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refusal("The server does not answer. Is it running, and can this machine reach it?", 0);
  }
  if (!answer.ok) throw new Refusal(await refusalOf(answer), answer.status);
  return answer;
}

async function refusalOf(answer) {
  const said = await answer.json().catch(() => ({}));
  return asSentence(said.error ?? `the server answers ${answer.status} ${answer.statusText}`);
}

// The form of a page that asks for a token: shown when the server wants one; calls back with a new one.
export function tokenForm(form, again) {
  const [field, note] = [form.querySelector("input"), form.querySelector("p")];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEPT, field.value.trim());
    form.hidden = true;
    again();
  });
  return () => {
    note.textContent = sessionStorage.getItem(KEPT)
      ? "The server does not take this token."
      : "This server wants a token. It is kept in this tab only.";
    sessionStorage.removeItem(KEPT);
    form.hidden = false;
    field.value = "";
    field.focus();
  };
}
