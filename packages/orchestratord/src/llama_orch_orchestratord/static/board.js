// The board: what a look at everything shows. It knows no connection; `take` is told what came.

import { $, attribute, clockTime, clone, count, long, make, put, rate, show, span, svg, sync } from "./nodes.js";

const KEPT = 300; // looks that the plots go back
const LINES = 100; // of what each task does, and of all else

// --- figures

// A sample: [at, running, waiting, tokens/s, first p50, first p95, total p50, total p95]
const FIGURES = [
  { title: "Streams", least: 4, write: count, curves: [[1, "running"], [2, "waiting"]] },
  { title: "Tokens per second", least: 10, write: rate, curves: [[3, ""]] },
  { title: "First token", least: 0.1, write: span, curves: [[4, "median"], [5, "95 %"]] },
  { title: "Whole answer", least: 0.1, write: span, curves: [[6, "median"], [7, "95 %"]] },
];

let past = [];

function makeFigure(figure) {
  const node = clone("figure");
  put(node.querySelector("h3"), figure.title);
  figure.svg = node.querySelector("svg");
  figure.most = node.querySelector(".most");
  figure.area = figure.svg.appendChild(svg("path"));
  figure.area.setAttribute("class", "area");
  figure.drawn = figure.curves.map(([, name], place) => {
    const path = figure.svg.appendChild(svg("path"));
    path.setAttribute("class", place ? "curve second" : "curve");
    const value = make("span", "value");
    if (figure.curves.length > 1) value.append(make("i", place ? "key second" : "key"));
    const now = value.appendChild(make("b"));
    value.append(name);
    node.querySelector(".values").append(value);
    return { path, now };
  });
  return node;
}

/** The next round number that is not below. */
function above(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value * 0.999);
}

function drawFigure(figure) {
  const last = past[past.length - 1];
  const highest = Math.max(...figure.curves.flatMap(([at]) => past.map((sample) => sample[at] ?? 0)));
  const top = above(Math.max(figure.least, highest));
  const known = past.some((sample) => sample[figure.curves[0][0]] !== null);
  put(figure.most, known ? figure.write(top) : "no task yet");
  figure.most.classList.toggle("none", !known);
  const said = [];
  figure.curves.forEach(([at, name], place) => {
    const now = last[at] === null ? "–" : figure.write(last[at]);
    const pieces = curve(at, last[0], top);
    put(figure.drawn[place].now, now);
    attribute(figure.drawn[place].path, "d", pieces.map((points) => `M${points.join("L")}h.01`).join(""));
    if (!place) attribute(figure.area, "d", pieces.map(filled).join(""));
    said.push(`${name} ${now === "–" ? "none" : now}`.trim());
  });
  const most = known ? `, at most ${figure.write(highest)}` : "";
  attribute(figure.svg, "aria-label", `${figure.title} over five minutes: ${said.join(", ")} now${most}`);
}

/** Runs of points without a gap; a unit of x is a second. */
function curve(at, now, top) {
  const pieces = [];
  let piece = null, before = 0;
  for (const sample of past) {
    const x = KEPT - (now - sample[0]) / 1000;
    if (sample[at] === null || x < 0) { piece = null; continue; }
    if (!piece || x - before > 5) pieces.push(piece = []);
    before = x;
    piece.push(`${x.toFixed(1)} ${(58 - (54 * sample[at]) / top).toFixed(1)}`);
  }
  return pieces;
}

const xOf = (point) => point.split(" ")[0];

const filled = (points) => `M${xOf(points[0])} 58L${points.join("L")}V58Z`;

// --- pools

const FACTS = [
  ["Running", (pool) => count(pool.running)],
  ["Waiting", (pool) => `${count(pool.interactive)} interactive, ${count(pool.batch)} batch`],
  ["Tokens/s", (pool) => rate(pool.tokens_per_s)],
  ["Done", (pool) => count(pool.ok)],
  ["Failed", (pool) => count(pool.failed)],
  ["Cancelled", (pool) => count(pool.cancelled)],
];

function makePool(pool) {
  const node = clone("pool");
  put(node.querySelector("h3"), pool.pool_id);
  put(node.querySelector("caption"), `Replicas of ${pool.pool_id}`);
  node.querySelector(".verdict").append(makeSign());
  for (const [name] of FACTS) {
    const fact = node.querySelector("dl").appendChild(make("div", name === "Waiting" ? "wide" : ""));
    fact.append(make("dt", "", name), make("dd"));
  }
  return node;
}

function drawPool(node, pool) {
  drawSign(node.querySelector(".sign"), pool.refusal === null ? "good" : "bad", pool.refusal ?? "takes tasks");
  node.querySelectorAll("dd").forEach((value, place) => put(value, FACTS[place][1](pool)));
  const rows = pool.replicas.flatMap((replica) => (replica.problem ? [replica, { why: replica }] : [replica]));
  show(node.querySelector("table"), rows.length > 0);
  show(node.querySelector(".none"), rows.length === 0);
  sync(node.querySelector("tbody"), rows, rowKey, makeRow, drawRow);
}

const rowKey = (row) => (row.why ? `${rowKey(row.why)} why` : `${row.replica_id} ${row.generation}`);

function makeRow(row) {
  const node = make("tr", row.why ? "why" : "");
  if (row.why) {
    node.append(make("td"));
    node.firstChild.colSpan = 5;
    return node;
  }
  const name = node.appendChild(make("th"));
  name.scope = "row";
  name.append(make("span"), " ", make("div", "what"));
  for (let place = 0; place < 2; place++) node.appendChild(make("td")).append(makeSign());
  node.append(make("td", "number"), make("td", "number"));
  const load = svg("svg");
  load.setAttribute("class", "load");
  load.setAttribute("viewBox", "0 0 100 4");
  load.setAttribute("preserveAspectRatio", "none");
  load.setAttribute("aria-hidden", "true");
  load.appendChild(svg("rect")).setAttribute("height", "4");
  node.lastChild.append(make("span"), load);
  return node;
}

function makeSign() {
  const sign = make("span", "sign");
  sign.append(make("span", "dot"), make("span"));
  sign.firstChild.ariaHidden = "true";
  return sign;
}

function drawSign(sign, kind, text) {
  attribute(sign, "class", `sign ${kind}`);
  put(sign.lastChild, text);
}

const HEALTH = { ready: "good", busy: "good", loading: "warn", unknown: "warn", down: "bad" };

function drawRow(node, row) {
  if (row.why) { put(node.firstChild, row.why.problem); return; }
  const [name, health, breaker, generation, streams] = node.children;
  put(name.firstChild, row.replica_id);
  put(name.lastChild, [row.engine, row.model, row.stage === "bound" ? null : row.stage].filter(Boolean).join(" · "));
  drawSign(health.firstChild, HEALTH[row.health] || "warn", row.health);
  const open = row.breaker === "open";
  const again = row.reopens_in > 0 ? ` ${Math.ceil(row.reopens_in)} s` : "";
  drawSign(breaker.firstChild, open ? "bad" : row.breaker === "closed" ? "good" : "warn", open ? `open${again}` : row.breaker.replace("_", " "));
  put(generation, String(row.generation));
  put(streams.firstChild, row.slots === null ? count(row.in_flight) : `${count(row.in_flight)} of ${count(row.slots)}`);
  const share = row.slots ? Math.min(100, (100 * row.in_flight) / row.slots) : 0;
  attribute(streams.lastChild.firstChild, "width", share.toFixed(0));
  streams.lastChild.classList.toggle("over", row.slots !== null && row.in_flight > row.slots); // some wait in the engine
}

// --- streams

function makeStream() {
  const node = make("tr");
  const task = node.appendChild(make("th"));
  task.scope = "row";
  task.append(make("code"));
  node.append(make("td"), make("td"), make("td", "number"), make("td", "number"));
  return node;
}

function drawStream(node, stream) {
  const [task, place, reader, since, tokens] = node.children;
  put(task.firstChild, stream.task);
  put(place, stream.place || "no token yet");
  place.classList.toggle("soft", !stream.place);
  put(reader, stream.read ? "reading" : stream.unread ? `none, ${count(stream.unread)} kept` : "none");
  put(since, long(stream.seconds));
  put(tokens, count(stream.tokens));
}

// --- narration

let told = 0;
let spoke = 0;

function makeLine(line) {
  const node = make("li", line.level);
  const time = make("time", "", clockTime(line.at));
  time.dateTime = new Date(line.at).toISOString();
  node.append(time, make("span", "", line.text));
  return node;
}

function tell(lines, afresh) {
  const story = $("story");
  if (afresh) { story.replaceChildren(); told = 0; }
  const fresh = lines.filter((line) => line.n > told);
  for (const line of fresh) story.prepend(makeLine(line));
  if (fresh.length) told = fresh[fresh.length - 1].n;
  for (const kind of [".debug", ":not(.debug)"]) { // what each task does pushes nothing else out
    [...story.querySelectorAll(`:scope > ${kind}`)].slice(LINES).forEach((line) => line.remove());
  }
  const warning = fresh.findLast((line) => line.level === "warning");
  if (warning && !afresh && Date.now() - spoke > 5000) { // read out, but not one after the other
    spoke = Date.now();
    put($("heard"), warning.text);
  }
  emptyStory();
}

function emptyStory() {
  const only = !$("every").checked;
  $("story").classList.toggle("only", only);
  const some = only ? $("story").querySelector(":not(.debug)") : $("story").firstChild;
  show($("story"), Boolean(some));
  show($("no-story"), !some);
}

// --- a look at everything

let look = null;

/** Shows what came: `begin` has all that is kept, each `look` what is new of it. */
export function take(kind, data) {
  look = data.now;
  past = kind === "begin" ? data.history : past.concat(data.history).slice(-KEPT);
  tell(data.lines, kind === "begin");
  if (!document.hidden) draw();
}

/** When what is shown was so, in ms; null while nothing is. */
export function seen() { return look && past[past.length - 1][0]; }

/** Shows nothing. */
export function clear() {
  look = null;
  show($("board"), false);
}

function draw() {
  if (!look) return;
  show($("board"), true);
  FIGURES.forEach(drawFigure);
  sync($("pools"), look.pools, (pool) => pool.pool_id, makePool, drawPool);
  show($("no-pools"), look.pools.length === 0);
  sync($("stream-rows"), look.streams, (stream) => stream.task, makeStream, drawStream);
  show($("streams"), look.streams.length > 0);
  show($("no-streams"), look.streams.length === 0);
  show($("more-streams"), look.more > 0);
  put($("more-streams"), `and ${count(look.more)} more, which began later`);
  const running = look.streams.length + look.more;
  document.title = running ? `${count(running)} · orchestratord` : "orchestratord";
}

$("figures").append(...FIGURES.map(makeFigure));
$("every").addEventListener("change", emptyStory);
document.addEventListener("visibilitychange", () => { if (!document.hidden) draw(); });
