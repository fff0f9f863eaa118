// What the page knows and what its reader has chosen; whoever changes it calls `draw`.

export const state = {
  view: null,        // the latest event: {gateway, snapshot}
  connected: false,
  page: "",
  detail: null,      // what of the page is looked at, from the address
  widths: {},        // of charts, by name
  hover: null,       // {chart, index}
};

let painter = () => {};
let waits = false;

// Who paints, once a frame at most.
export function paintedBy(paint) { painter = paint; }

export function draw() {
  if (waits) return;
  waits = true;
  requestAnimationFrame(() => { waits = false; painter(); });
}

// A choice of the reader's that outlives the tab; without storage (private windows) it lasts as long as the page.
const choices = new Map();
export function remembered(name, otherwise) {
  if (!choices.has(name)) {
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem("prefixgate." + name)); } catch { /* none */ }
    choices.set(name, kept ?? otherwise);
  }
  return choices.get(name);
}

export function remember(name, value) {
  choices.set(name, value);
  try { localStorage.setItem("prefixgate." + name, JSON.stringify(value)); } catch { /* not kept */ }
  draw();
}
