// Descriptions of what the page should look like, and the fewest changes that make it so. Touches the DOM.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "selected"]);

// A description of an element: `h("p", {class: "quiet"}, "text", [more], condition && other)`. Siblings that come and
// go bear a `key`. `ref` is called with the element once, when it has been made.
export function h(tag, props, ...children) {
  return {tag, props: props ?? {}, key: props?.key, children: flat(children, []), node: null};
}

function flat(children, into) {
  for (const child of children) {
    if (Array.isArray(child)) flat(child, into);
    else if (child !== null && typeof child === "object") into.push(child);
    else into.push({text: child == null || child === false ? "" : String(child), node: null});
  }
  return into;
}

// Make the content of `element` what the descriptions say; those of the last time are remembered.
export function show(element, ...children) {
  const after = flat(children, []);
  if (!element.shown) element.replaceChildren();
  reconcile(element, element.shown ?? [], after, element.namespaceURI === SVG);
  element.shown = after;
}

function make(one, inSvg) {
  if (one.tag === undefined) return (one.node = document.createTextNode(one.text));
  const svg = inSvg || one.tag === "svg";
  const node = svg ? document.createElementNS(SVG, one.tag) : document.createElement(one.tag);
  one.node = node;
  reconcile(node, [], one.children, svg && one.tag !== "foreignObject");
  for (const [name, value] of Object.entries(one.props)) assign(node, name, value, undefined);
  one.props.ref?.(node);
  return node;
}

function amend(before, after, inSvg) {
  const node = (after.node = before.node);
  if (after.tag === undefined) {
    if (before.text !== after.text) node.data = after.text;
    return;
  }
  const svg = inSvg || after.tag === "svg";
  reconcile(node, before.children, after.children, svg);
  for (const name of Object.keys(before.props)) if (!(name in after.props)) assign(node, name, undefined, before.props[name]);
  for (const [name, value] of Object.entries(after.props)) {
    if (value !== before.props[name] || PROPERTIES.has(name)) assign(node, name, value, before.props[name]);
  }
}

function reconcile(parent, before, after, svg) {
  const keyed = new Map(), plain = [];
  for (const one of before) one.key === undefined ? plain.push(one) : keyed.set(one.key, one);
  let next = 0;
  const made = after.map(one => {
    let old;
    if (one.key !== undefined) {
      old = keyed.get(one.key);
      if (old?.tag !== one.tag) return null;
      keyed.delete(one.key);
    } else {
      old = plain[next];
      if (!old || old.tag !== one.tag) return null;
      next += 1;
    }
    return old;
  });
  const kept = new Set(made);
  for (const one of before) if (!kept.has(one)) one.node.remove();
  after.forEach((one, index) => {
    if (made[index]) amend(made[index], one, svg); else make(one, svg);
    const there = parent.childNodes[index];
    if (there !== one.node) parent.insertBefore(one.node, there ?? null);
  });
}

function assign(node, name, value, before) {
  if (name === "key" || name === "ref") return;
  if (name.startsWith("on")) node[name] = value ?? null;
  else if (name === "style") styled(node, value ?? {}, before ?? {});
  else if (PROPERTIES.has(name)) {
    if (node[name] !== (value ?? false) && !(name === "value" && node === document.activeElement)) node[name] = value ?? false;
  } else if (value == null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

function styled(node, after, before) {
  for (const name of Object.keys(before)) if (!(name in after)) node.style.removeProperty(name);
  for (const [name, value] of Object.entries(after)) if (value !== before[name]) node.style.setProperty(name, value);
}
