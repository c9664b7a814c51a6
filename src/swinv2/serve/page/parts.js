// What pages are made of, those of a server as the one of cpp/web: elements, sentences, classes as bars.

// An element with attributes and children: element("p", { class: "quiet" }, "text", otherElement).
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A refusal begins in lower case, since programs print it after a name.
export function asSentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

export function percent(score) {
  const value = 100 * score;
  return value > 0 && value < 0.1 ? "< 0.1 %" : `${value.toFixed(1)} %`;
}

// Classes, best first, each a { name, score }.
export function bars(classes) {
  return element("ol", { class: "bars", "aria-label": "Likeliest classes" }, ...classes.map(({ name, score }) => {
    const fill = element("span", { class: "fill" });
    fill.style.width = `${Math.max(100 * score, 0.4)}%`;
    const words = [element("span", { class: "name" }, name), " ", element("span", { class: "number" }, percent(score))];
    return element("li", {}, ...words, element("span", { class: "bar", "aria-hidden": "true" }, fill));
  }));
}
