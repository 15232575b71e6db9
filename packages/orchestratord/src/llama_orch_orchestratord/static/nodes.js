// Nodes, and what is written in them. What comes from the server is put in as text, never as markup: engines write some.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag) { return document.createElementNS(SVG, tag); }

export function make(tag, kind, text) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function put(node, text) { if (node.textContent !== text) node.textContent = text; }

export function show(node, is) { if (node.hidden === is) node.hidden = !is; }

export function attribute(node, name, value) { if (node.getAttribute(name) !== value) node.setAttribute(name, value); }

export function clone(id) { return $(id).content.firstElementChild.cloneNode(true); }

/** Makes the children of `parent` those of `items`, in order; a child stays as long as its key does. */
export function sync(parent, items, keyOf, create, update) {
  const before = new Map();
  for (const node of [...parent.children]) {
    if (before.has(node.key)) node.remove(); else before.set(node.key, node);
  }
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = before.get(key);
    if (node) before.delete(key); else { node = create(item); node.key = key; }
    if (node === place) place = place.nextSibling; else parent.insertBefore(node, place);
    update(node, item);
  }
  for (const node of before.values()) node.remove();
}

const two = (number) => String(number).padStart(2, "0");

export function clockTime(at) {
  const moment = new Date(at);
  return `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
}

export const count = (number) => number.toLocaleString("en");

export const rate = (number) => (number < 9.95 ? String(Math.round(number * 10) / 10) : count(Math.round(number)));

export function span(seconds) {
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 0.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 600) return `${Math.round(seconds)} s`;
  return seconds < 36000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export function long(seconds) { return seconds < 60 ? `${Math.floor(seconds)} s` : span(Math.max(600, seconds)); }
