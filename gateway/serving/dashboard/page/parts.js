// What pages are made of: cards, tables, choices, confirmations and short messages.

import {h} from "./dom.js";

export const card = (title, ...content) => section("card", title, content);
export const wide = (title, ...content) => section("card wide", title, content);

function section(kind, title, content) {
  const id = "h-" + title.toLowerCase().replace(/[^a-z]+/g, "-");
  return h("section", {class: kind, "aria-labelledby": id, key: id}, h("h2", {id}, title), content);
}

// `columns` are names, or {name, left, hint}; `rows` are {key, cells, class, onclick}; cells are texts or descriptions.
export function table(caption, columns, rows, empty = "Nothing yet.") {
  const heads = columns.map(one => typeof one === "string" ? {name: one} : one);
  const left = index => index === 0 || heads[index].left ? "left" : null;
  return h("div", {class: "scroll", role: "region", "aria-label": caption, tabindex: 0},
    h("table", {}, h("caption", {class: "unseen"}, caption),
      h("thead", {}, h("tr", {}, heads.map((head, index) => h("th", {scope: "col", class: left(index), title: head.hint}, head.name)))),
      h("tbody", {}, rows.length
        ? rows.map(row => h("tr", {key: row.key, class: row.class}, row.cells.map((cell, index) =>
          index === 0 ? h("th", {scope: "row", class: "left"}, cell) : h("td", {class: left(index)}, cell))))
        : h("tr", {key: "none"}, h("td", {colspan: heads.length, class: "left quiet"}, empty)))));
}

// One of several: `options` are [value, text].
export function choice(label, options, value, choose) {
  return h("div", {class: "choice", role: "group", "aria-label": label}, options.map(([one, text]) =>
    h("button", {key: one, type: "button", "aria-pressed": String(one === value), onclick: () => choose(one)}, text)));
}

export function select(label, options, value, choose) {
  return h("label", {class: "select"}, h("span", {}, label),
    h("select", {onchange: event => choose(event.target.value)},
      options.map(([one, text]) => h("option", {key: one, value: one, selected: one === value}, text))));
}

export const badge = (kind, text) => h("span", {class: "badge " + kind}, text);

export const figure = (name, value, ...more) =>
  h("div", {class: "figure", key: name}, h("dt", {}, name), h("dd", {"data-figure": name}, value), more.length ? h("dd", {class: "quiet small"}, more) : null);

// A share as a bar beside its figure; `mark` is a reference on the same scale.
export function meter(share, text, mark) {
  const width = Math.min(Math.max(share ?? 0, 0), 1);
  return h("span", {class: "meter"}, h("span", {class: "meter-text"}, text),
    h("span", {class: "meter-track", "aria-hidden": "true"},
      h("span", {class: "meter-fill", style: {width: 100 * width + "%"}}),
      mark == null ? null : h("span", {class: "meter-mark", style: {left: 100 * mark + "%"}})));
}

export const quiet = (...text) => h("p", {class: "quiet"}, text);

export const explained = (summary, ...content) => h("details", {class: "explained"}, h("summary", {}, summary), h("div", {}, content));

// Ask before something is done; whether it shall be.
export function confirmed({title, text, action = "Do it", danger = false}) {
  return new Promise(resolve => {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", "confirm-title");
    const heading = Object.assign(document.createElement("h2"), {id: "confirm-title", textContent: title});
    const lines = (Array.isArray(text) ? text : [text]).map(line => Object.assign(document.createElement("p"), {textContent: line}));
    const row = Object.assign(document.createElement("div"), {className: "actions"});
    const cancel = Object.assign(document.createElement("button"), {textContent: "Cancel", type: "button"});
    const go = Object.assign(document.createElement("button"), {textContent: action, type: "button", className: danger ? "danger" : "primary"});
    cancel.onclick = () => dialog.close("");
    go.onclick = () => dialog.close("go");
    dialog.onclose = () => { dialog.remove(); resolve(dialog.returnValue === "go"); };
    row.append(cancel, go);
    dialog.append(heading, ...lines, row);
    document.getElementById("dialogs").append(dialog);
    dialog.showModal();
    cancel.focus();
  });
}

const LASTS_MS = 20000;

// Say what was done, with a way back where there is one.
export function say(text, {undo, bad = false} = {}) {
  const toast = Object.assign(document.createElement("div"), {className: bad ? "toast bad" : "toast"});
  toast.append(Object.assign(document.createElement("span"), {textContent: text}));
  const gone = () => toast.remove();
  if (undo) {
    const back = Object.assign(document.createElement("button"), {textContent: "Undo", type: "button"});
    back.onclick = () => { gone(); undo(); };
    toast.append(back);
  }
  const close = Object.assign(document.createElement("button"), {textContent: "Close", type: "button", className: "plain"});
  close.onclick = gone;
  toast.append(close);
  document.getElementById("toasts").append(toast);
  setTimeout(gone, LASTS_MS);
}

// Do something that may be refused, and say how it went.
export async function tried(work, done, undo) {
  try {
    const told = await work();
    const warnings = told?.warnings ?? [];
    say([done, ...warnings].join(" "), {undo});
    return told;
  } catch (error) {
    say(error.message, {bad: true});
    return null;
  }
}
