// The connection: asks the server for looks, and for a token where it needs one; what came, the board shows.

import { clear, seen, take } from "./board.js";
import { $, attribute, clockTime, put, show } from "./nodes.js";

const LONGEST_WAIT = 15; // seconds between two tries to connect

// --- the token: kept for this tab alone

const TOKEN = "orchestratord.token";
let token = "";
try { token = sessionStorage.getItem(TOKEN) || ""; } catch { /* a browser may forbid it: then it is asked for again */ }

function keepToken(given) {
  token = given;
  try {
    if (given) sessionStorage.setItem(TOKEN, given); else sessionStorage.removeItem(TOKEN);
  } catch { /* as above */ }
}

// --- the connection

let wait = 0; // seconds before the next try, grows
let timer = 0;
let line = null; // the AbortController of the connection that is open

function state(kind, text) {
  attribute($("state"), "data-kind", kind);
  put($("state-text"), text);
}

/** A refusal that time may mend, or not; `token`: another one is needed. */
class Refused extends Error {
  constructor(message, facts = {}) { super(message); Object.assign(this, facts); }
}

async function refusal(response) {
  let message = `The server answered ${response.status}`;
  try { message = (await response.json()).message || message; } catch { /* no Error of ours: a proxy's, perhaps */ }
  const facts = { asks: response.status === 401, final: response.status === 403 || response.status === 404 };
  return new Refused(message, facts);
}

async function connect() {
  clearTimeout(timer);
  if (line) line.abort();
  const mine = line = new AbortController();
  show($("door"), false);
  show($("forget"), Boolean(token));
  if (!seen()) state("wait", "Connecting…");
  try {
    await listen(mine);
    throw new Refused("The server ended the connection");
  } catch (error) {
    if (mine === line) lost(error);
  }
}

async function listen(mine) {
  let guard = setTimeout(() => mine.abort(), 15000); // a connection that says nothing is none
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch("v1/live", { headers, signal: mine.signal, cache: "no-store" });
    if (!response.ok) throw await refusal(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(guard);
      guard = setTimeout(() => mine.abort(), 10000);
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      blocks.forEach(hear);
    }
  } finally {
    clearTimeout(guard);
  }
}

function hear(block) {
  let kind = "", data = "";
  for (const field of block.split("\n")) {
    if (field.startsWith("event: ")) kind = field.slice(7);
    else if (field.startsWith("data: ")) data += field.slice(6);
  }
  if (kind !== "begin" && kind !== "look") return;
  const said = JSON.parse(data);
  if (kind === "begin") wait = 0;
  if (said.now.stopping) state("wait", "Stopping: no new tasks are taken"); else state("live", "Live");
  show($("notice"), false);
  $("board").classList.remove("stale");
  take(kind, said);
}

function lost(error) {
  line = null;
  if (error.asks) { ask(); return; }
  const why = error instanceof Refused ? error.message : "The server cannot be reached";
  $("board").classList.add("stale");
  show($("notice"), true);
  if (error.final) {
    state("lost", "Refused");
    put($("notice-text"), why);
    return;
  }
  wait = Math.min(LONGEST_WAIT, wait ? wait * 2 : 0.5);
  countDown(why, Date.now() + 1000 * wait * (0.75 + Math.random() / 2));
}

function countDown(why, until) {
  const left = Math.ceil((until - Date.now()) / 1000);
  if (left <= 0) { connect(); return; }
  state("lost", seen() ? "Connection lost" : "Not connected");
  const since = seen() ? ` What you see is from ${clockTime(seen())}.` : "";
  put($("notice-text"), `${why.replace(/\.?$/, ".")}${since} Trying again ${left > 1 ? `in ${left} s` : "now"}.`);
  timer = setTimeout(countDown, Math.min(1000, until - Date.now()), why, until);
}

/** Ask for a token; one that was given is wrong. */
function ask() {
  const wrong = Boolean(token);
  keepToken("");
  clear();
  show($("notice"), false);
  show($("forget"), false);
  show($("door"), true);
  complain(wrong ? "The server does not know this token." : "");
  state("wait", wrong ? "Wrong token" : "Token needed");
  $("token").focus();
}

function complain(text) {
  show($("door-wrong"), Boolean(text));
  put($("door-wrong"), text);
  attribute($("token"), "aria-invalid", String(Boolean(text)));
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) { complain("A token is letters, digits and signs, without spaces."); return; }
  $("token").value = "";
  keepToken(given);
  wait = 0;
  connect();
});
$("forget").addEventListener("click", () => { if (line) line.abort(); line = null; clearTimeout(timer); keepToken(""); ask(); });
$("again").addEventListener("click", connect);
window.addEventListener("online", () => { if (!line && $("door").hidden) connect(); });

connect();
