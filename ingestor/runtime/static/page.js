"use strict";
// The page of a run. The server sends its state four times a second, a sample a second for the
// plots, and what has happened; here they become text in nodes that stay, so that nothing flickers
// and a screen reader hears changes alone. Nothing is fetched from elsewhere.

const SILENT_MS = 3000; // No word from the run for so long is a fault that the page itself tells.
const KEPT = 900;

const $ = (id) => document.getElementById(id);
const samples = [];
let state = null;
let heard = 0;

// Text and nodes.

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, on) {
  node.classList.toggle(name, Boolean(on));
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Make the children of a node those of `items`: `build` makes one, `update` shows an item in it.
function list(parent, items, key, build, update) {
  const held = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let node = held.get(name);
    if (!node) {
      node = build(item);
      node.dataset.key = name;
    }
    held.delete(name);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update(node, item);
  }
  for (const node of held.values()) node.remove();
}

function cells(count) {
  return () => make("tr", "", ...Array.from({ length: count }, () => make("td")));
}

function fill(row, texts) {
  texts.forEach((text, at) => set(row.children[at], text));
}

// What people read.

const whole = (number) => Math.round(number).toLocaleString("en-US");
const count = (number, one, many) => `${whole(number)} ${number === 1 ? one : many}`;

function rate(perSecond) {
  return perSecond > 0 && perSecond < 10 ? `${perSecond.toFixed(1)}/s` : `${whole(perSecond)}/s`;
}

function bytes(number) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  while (number >= 1000 && at < units.length - 1) { number /= 1000; at += 1; }
  return `${at && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[at]}`;
}

function took(ns) {
  if (ns === null || ns === undefined) return "–";
  const units = ["µs", "ms", "s"];
  let value = ns / 1000;
  let at = 0;
  while (value >= 1000 && at < 2) { value /= 1000; at += 1; }
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ${units[at]}`;
}

function span(ms) {
  const s = Math.max(ms, 0) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

// Within a second is now: two clocks, and what is on its way, lie between.
const ago = (ms) => (state.at - ms < 1000 ? "just now" : `${span(state.at - ms)} ago`);

const shownIn = (timeZone) => {
  const clock = new Intl.DateTimeFormat("en-GB", {
    timeZone, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  });
  return (ms) => clock.format(new Date(ms));
};
const utc = shownIn("UTC");
const newYork = shownIn("America/New_York");
const date = new Intl.DateTimeFormat("en-CA", { timeZone: "America/New_York" });
// Nanoseconds that are zeros.
const short = (text) => text.replace(/\.(\d*?)0*Z/g, (_, digits) => (digits ? `.${digits}Z` : "Z"));
const speedText = (speed) => (speed >= 100 ? whole(speed) : String(+speed.toPrecision(3)));

// The head and whether all is well.

function showHead() {
  const { run } = state;
  set($("mode"), run.demo ? `${run.mode} demo` : run.mode);
  set($("where"), `${run.stream} at ${run.server}`);
  set($("since"), `since ${utc(run.started)} UTC (${span(state.at - run.started)}), ${run.encoding === "json" ? "JSON" : run.encoding} messages`);
  set($("version"), `ingestor ${run.version}`);
}

function showHealth(lost) {
  const box = $("health");
  let verdict = state && state.replay && state.replay.paused ? "Paused, and all is well" : "All is well";
  let findings = state ? state.findings : [];
  if (lost && state && state.run.stopping) {
    verdict = "The run has ended";
    findings = [];
  } else if (lost) {
    verdict = "No word from the run";
    const age = state && heard ? ` for ${span(Date.now() - heard)}` : "";
    findings = [{ bad: true, text: `it has ended, or this page cannot reach it${age}` }];
  } else if (state.run.stopping) {
    verdict = "The run is stopping";
  } else if (!state.well) {
    verdict = "Something is wrong";
  }
  const good = !lost && state.well;
  mark(box, "good", good);
  mark(box, "bad", !good && !(state && state.run.stopping));
  set($("verdict"), verdict);
  list($("findings"), findings, (one) => one.text.replace(/[\d.,]+/g, "#"), () => make("li"),
    (node, one) => set(node, one.text));
  document.title = `${good ? "" : "● "}${state ? state.run.stream : "ingestor"}`;
}

// The data path.

function buildNode() {
  const node = make("div", "node",
    make("h3", "", make("b"), make("span", "rate")),
    make("div", "fill", make("i")), make("p"), make("p", "bad"), make("p", "past"));
  return node;
}

function showNode(node, name, right, share, ...told) {
  const [head, bar, ...texts] = node.children;
  set(head.children[0], name);
  set(head.children[1], right);
  bar.hidden = share === null;
  if (share !== null) {
    bar.firstElementChild.style.transform = `scaleX(${Math.min(share, 1).toFixed(4)})`;
  }
  texts.forEach((text, at) => {
    set(text, told[at].filter(Boolean).join(" · "));
    text.hidden = !text.textContent;
  });
}

function showFeed(node, feed) {
  const [used, size] = feed.ring;
  const share = size ? used / size : 0;
  const lines = [size ? `ring ${Math.round(share * 100)} % of ${bytes(size)}` : ""];
  const troubles = []; // What is wrong now.
  const past = []; // What went wrong before.
  if (feed.live) {
    lines.push(feed.connected ? `${count(feed.subscribed, "channel", "channels")}` : "");
    lines.push(feed.event ? `newest event ${ago(feed.event)}` : "no event yet");
    if (feed.journal) lines.push(`journal ${bytes(feed.journal)}`);
    if (!feed.connected && !feed.ended) troubles.push("not connected to its vendor");
    if (feed.held[0]) troubles.push(`${whole(feed.held[0])} of ${whole(feed.held[1])} wait for the ring`);
    if (feed.dropped) past.push(`${whole(feed.dropped)} dropped`);
    if (feed.gaps) past.push(count(feed.gaps, "gap", "gaps"));
  } else {
    const [read, total] = feed.read;
    lines.push(total ? `${Math.floor((100 * read) / total)} % of ${bytes(total)} read` : "");
  }
  if (feed.ended) lines.push("ended");
  if (feed.skipped) past.push(`${whole(feed.skipped)} skipped`);
  if (feed.restarts) past.push(count(feed.restarts, "restart", "restarts"));
  // A replay reads ahead as far as the ring holds: only of a live feed is a full one bad.
  mark(node.children[1], "full", feed.live && share > 0.8);
  const behind = feed.live && feed.held[0] > feed.held[1] / 2;
  mark(node, "bad", feed.live && !feed.ended && (!feed.connected || behind));
  mark(node, "over", feed.ended);
  showNode(node, feed.name, rate(feed.rate), share, lines, troubles, past);
}

function showPath() {
  const { publisher, run, subjects } = state;
  list($("feeds"), state.feeds, (feed) => feed.name, () => {
    const node = buildNode();
    const item = make("li");
    item.append(node);
    return item;
  }, (item, feed) => showFeed(item.firstElementChild, feed));
  for (const id of ["publisher", "stream"]) {
    if (!$(id).children.length) $(id).append(...buildNode().children);
  }
  // One that has ended has said goodbye to its server.
  const away = !publisher.connected && !publisher.ended;
  const waits = publisher.unacked ? `${whole(publisher.unacked)} under way` : "nothing under way";
  showNode($("publisher"), "merge and publish", rate(publisher.rate), null,
    [waits, publisher.event ? `at ${newYork(publisher.event)} New York` : ""],
    [away ? "not connected to its server" : ""],
    [publisher.restarts ? count(publisher.restarts, "restart", "restarts") : ""]);
  mark($("publisher"), "bad", away);
  mark($("publisher"), "over", publisher.ended);
  const stored = Object.entries(subjects).map(([name, rows]) => `${name.replace("market.", "")} ${whole(rows)}`);
  showNode($("stream"), run.stream, `${whole(publisher.published)} stored`, null, stored,
    [], [publisher.reconnects ? count(publisher.reconnects, "reconnect", "reconnects") : ""]);
  mark($("stream"), "bad", away || !state.well && state.findings.some((one) => one.bad && one.text.startsWith("nothing is stored")));
}

// Tables.

function showTables() {
  const build = () => {
    const row = cells(5)();
    row.children[3].className = "wide";
    return row;
  };
  list($("hops"), state.hops, (hop) => hop.hop, build, (row, hop) =>
    fill(row, [hop.hop, took(hop.p50), took(hop.p99), took(hop.p999), took(hop.max)]));
  const all = [...state.feeds, state.publisher];
  list($("processes"), all, (one) => one.name, cells(4), (row, one) => fill(row, [
    one.ended ? `${one.name} (ended)` : one.name,
    one.cpu === null ? "–" : `${Math.round(one.cpu * 100)} %`,
    one.memory === null || one.ended ? "–" : bytes(one.memory),
    String(one.restarts),
  ]));
}

function showStrikes() {
  const { strikes } = state;
  $("strikes-box").hidden = !strikes;
  if (!strikes) return;
  const rows = new Map();
  for (const trade of strikes.trades) {
    const tail = trade.symbol.slice(-15);
    const strike = Number(tail.slice(7)) / 1000;
    const key = `${tail.slice(0, 6)} ${strike}`;
    const row = rows.get(key) || { key, expiry: tail.slice(0, 6), strike };
    row[tail[6]] = trade;
    rows.set(key, row);
  }
  const nearest = [...rows.values()]
    .sort((a, b) => Math.abs(a.strike - strikes.price) - Math.abs(b.strike - strikes.price))
    .slice(0, 11).sort((a, b) => b.strike - a.strike || a.expiry.localeCompare(b.expiry));
  const expiries = new Set(nearest.map((row) => row.expiry));
  const money = nearest.reduce((best, row) => !best ||
    Math.abs(row.strike - strikes.price) < Math.abs(best.strike - strikes.price) ? row : best, null);
  set($("strikes-title"), strikes.price === null ? "Strikes" :
    `Strikes around ${strikes.price.toFixed(2)}${expiries.size === 1 ? `, expiry 20${[...expiries][0].replace(/(..)(..)(..)/, "$1\u2011$2\u2011$3")}` : ""}`);
  const build = () => {
    const tr = cells(7)();
    for (const at of [2, 6]) tr.children[at].className = "ago";
    return tr;
  };
  list($("strikes"), nearest, (row) => row.key, build, (tr, row) => {
    const side = (trade) => trade
      ? [trade.price.toFixed(2), whole(trade.size), ago(trade.at)] : ["–", "", ""];
    const name = expiries.size === 1 ? row.strike.toFixed(2) : `${row.expiry} ${row.strike.toFixed(2)}`;
    fill(tr, [...side(row.C), name, ...side(row.P)]);
    mark(tr, "money", row === money);
    mark(tr.children[0], "fresh", row.C && state.at - row.C.at < 2000);
    mark(tr.children[4], "fresh", row.P && state.at - row.P.at < 2000);
  });
}

function addNotes(notes, isWhole) {
  const box = $("notes");
  if (isWhole) box.replaceChildren();
  for (const note of notes) {
    const time = make("time", "", utc(note.at));
    time.dateTime = new Date(note.at).toISOString();
    const head = note.text.includes(note.who) ? note.what : `${note.who} ${note.what}`;
    // A time is not broken at its hyphens.
    const parts = short(note.text).split(/(\d{4}-\d\d-\d\dT[\d:.]+Z)/);
    const told = parts.map((part, at) => (at % 2 ? make("span", "unbroken", part) : part));
    const text = make("span", "", make("b", "", head), " ", ...told);
    box.prepend(make("li", note.bad ? "bad" : "", time, text));
  }
  while (box.children.length > 200) box.lastElementChild.remove();
}

// Plots. Times go from the oldest sample to now; a gap in time is a gap in the line.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function surface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value);
}

const pointers = new Map();

function plot(id, read, { log = false, text }) {
  const canvas = $(id);
  const { pen, width, height } = surface(canvas);
  const names = [...new Set(samples.flatMap((sample) => Object.keys(read(sample))))];
  const top = 8, bottom = height - 20, right = width - 6;
  const shown = samples.slice(-Math.max(60, Math.min(KEPT, samples.length)));
  const end = shown.length ? shown[shown.length - 1].at : 0;
  // A young run is not drawn into a corner, nor a single second over the whole width.
  const begin = Math.min(shown.length ? shown[0].at : 0, end - 15000);
  const values = shown.flatMap((sample) => Object.values(read(sample))).filter((value) => value > 0);
  const most = values.length ? Math.max(...values) : 1;
  const least = values.length ? Math.min(...values) : 1;
  const high = log ? 10 ** Math.ceil(Math.log10(most)) : niceTop(most);
  const low = log ? 10 ** Math.min(Math.floor(Math.log10(least)), Math.log10(high) - 1) : 0;
  const left = Math.max(58, pen.measureText(text(high)).width + 12);
  const x = (at) => left + ((at - begin) / (end - begin || 1)) * (right - left);
  const y = (value) => {
    const share = log ? Math.log10(Math.max(value, low) / low) / Math.log10(high / low) : value / high;
    return bottom - share * (bottom - top);
  };
  pen.strokeStyle = colour("--line");
  pen.fillStyle = colour("--faint");
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  if (!values.length) {
    pen.textAlign = "center";
    pen.fillText("nothing measured yet", width / 2, height / 2);
    return;
  }
  pen.textAlign = "right";
  const ticks = log
    ? Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, at) => low * 10 ** at)
    : [0, high / 2, high];
  for (const tick of ticks) {
    const at = Math.round(y(tick)) + 0.5;
    pen.beginPath(); pen.moveTo(left, at); pen.lineTo(right, at); pen.stroke();
    pen.fillText(text(tick), left - 6, at);
  }
  pen.textBaseline = "alphabetic";
  if (end) {
    pen.textAlign = "left"; pen.fillText(`${utc(begin)}`, left, height - 4);
    pen.textAlign = "right"; pen.fillText(`${utc(end)} UTC`, right, height - 4);
  }
  names.forEach((name, number) => {
    pen.strokeStyle = colour(`--c${number % 6}`);
    pen.lineWidth = 1.8;
    pen.lineCap = "round";
    pen.beginPath();
    let before = null;
    for (const sample of shown) {
      const value = read(sample)[name];
      if (value === undefined || value === null || (log && !value)) { before = null; continue; }
      if (before === null || sample.at - before > 2500) pen.moveTo(x(sample.at), y(value));
      // A line of no length is a dot, if it has some: one sample shows too.
      pen.lineTo(x(sample.at) + 0.1, y(value));
      before = sample.at;
    }
    pen.stroke();
  });
  const pointed = pointedSample(id, shown, begin, end, left, right);
  if (pointed) {
    pen.strokeStyle = colour("--faint");
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(x(pointed.at), top); pen.lineTo(x(pointed.at), bottom); pen.stroke();
  }
  const told = pointed || shown[shown.length - 1];
  list($(`${id}-legend`), names, (name) => name, () => make("li", "", make("i"), make("span")),
    (node, name) => {
      node.firstElementChild.style.background = `var(--c${names.indexOf(name) % 6})`;
      const value = told && read(told)[name];
      const shownValue = value === undefined || value === null ? "–" : text(value);
      set(node.lastElementChild, `${name} ${shownValue}`);
    });
}

function pointedSample(id, shown, begin, end, left, right) {
  const pointer = pointers.get(id);
  if (!pointer || !shown.length) return null;
  if (pointer.steps !== undefined) return shown[Math.max(0, shown.length - 1 - pointer.steps)];
  const at = begin + ((pointer.x - left) / (right - left)) * (end - begin);
  return shown.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best));
}

function drawPlots() {
  plot("rates", (sample) => sample.rates, { text: (value) => rate(value) });
  plot("latency", (sample) => Object.fromEntries(
    Object.entries(sample.latency).map(([name, quantiles]) => [name, quantiles[1]])),
  { log: true, text: took });
}

for (const id of ["rates", "latency"]) {
  const canvas = $(id);
  canvas.addEventListener("pointermove", (event) => {
    pointers.set(id, { x: event.offsetX });
    drawPlots();
  });
  canvas.addEventListener("pointerleave", () => { pointers.delete(id); drawPlots(); });
  canvas.addEventListener("blur", () => { pointers.delete(id); drawPlots(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const steps = (pointers.get(id)?.steps ?? 0) + step;
    if (steps < 0) pointers.delete(id);
    else pointers.set(id, { steps: Math.min(steps, samples.length - 1) });
    drawPlots();
  });
}

// The day of a replay.

function showDay() {
  const { replay } = state;
  $("day").hidden = !replay;
  if (!replay) return;
  const at = replay.event;
  const left = replay.left_s === null || !at || replay.paused ? "" : `, ${span(replay.left_s * 1000)} left`;
  set($("day-title"), at ? `Replay of ${date.format(new Date(at))}` : "Replay");
  set($("place"), at
    ? `${Math.floor(replay.share * 100)} % done, at ${newYork(at)} New York (${utc(at)} UTC)${left}`
    : replay.paused ? "before the first event" : "reading up to the first event");
  const wanted = replay.wanted ? `×${speedText(replay.wanted)} asked for` : "as fast as possible";
  const until = replay.until === null ? "" : `, until ${newYork(replay.until)} New York (${utc(replay.until)} UTC)`;
  const attained = replay.waits || replay.paused ? "" : `, ×${speedText(replay.speed)} attained`;
  set($("speed"), `${replay.paused ? "paused; " : ""}${wanted}${attained}${until}`);
  showControls();
  $("density").hidden = !at;
  if (!at) return;
  const { pen, width, height } = surface($("density"));
  const end = Math.max(replay.end, at, replay.first + 1);
  // In a hole of the data a paced replay goes on though no event is sent.
  const reached = replay.wanted ? replay.share : Math.max((at - replay.first) / (end - replay.first), 0);
  const bottom = height - 18;
  const most = Math.max(...replay.density, 1);
  pen.fillStyle = colour("--line");
  pen.fillRect(0, bottom - 2, width, 2);
  pen.fillStyle = colour("--c0");
  replay.density.forEach((events, number) => {
    if (!events) return;
    const from = (number * replay.bin) / (end - replay.first) * width;
    const wide = Math.max((replay.bin / (end - replay.first)) * width - 0.5, 1);
    const high = Math.max((events / most) * (bottom - 4), 1);
    if (from < width) pen.fillRect(from, bottom - high, Math.min(wide, width - from), high);
  });
  pen.fillStyle = colour("--c1");
  pen.fillRect(Math.min(reached * width, width - 2), 0, 2, bottom);
  if (replay.until !== null && replay.until < end) {
    pen.fillStyle = colour("--note");
    pen.fillRect(((replay.until - replay.first) / (end - replay.first)) * width, 0, 2, bottom);
  }
  pen.fillStyle = colour("--faint");
  pen.textAlign = "left"; pen.fillText(newYork(replay.first), 0, height - 4);
  pen.textAlign = "right";
  pen.fillText(`${newYork(end)} New York${replay.estimated ? ", estimated" : ""}`, width, height - 4);
}

// Steering a replay. The token is in the address that the run tells; from there it goes into the
// memory of this tab, so that it stays in no history and is not shown to whoever looks on.

const TOKEN = "ingestor-token";
const SURE_MS = 4000;

if (new URLSearchParams(location.search).has("token")) {
  sessionStorage.setItem(TOKEN, new URLSearchParams(location.search).get("token"));
  history.replaceState(null, "", location.pathname);
}

// Returns whether it was done; what became of it is told in a sentence.
async function steer(...words) {
  let answer;
  try {
    const response = await fetch("control", {
      method: "POST", body: words.join(" "), cache: "no-store",
      headers: { Authorization: `token ${sessionStorage.getItem(TOKEN)}`, "Content-Type": "text/plain" },
    });
    answer = await response.json();
    if (response.status === 403) sessionStorage.removeItem(TOKEN);
  } catch {
    answer = { ok: false, text: "the run does not answer" };
  }
  set($("answer"), short(answer.text));
  mark($("answer"), "bad", !answer.ok);
  // Before the run's next word comes, a second press is to mean what it says.
  if (answer.state && state.replay) {
    state.replay.paused = answer.state.paused;
    state.replay.wanted = answer.state.speed;
  }
  show();
  return answer.ok;
}

function showControls() {
  const { replay, run } = state;
  $("controls").hidden = !run.steerable || run.stopping;
  const known = sessionStorage.getItem(TOKEN) !== null;
  $("steer").hidden = !known;
  $("token-box").hidden = known;
  set($("pause"), replay.paused ? "Resume" : "Pause");
  $("faster").disabled = !replay.wanted;
  $("slower").disabled = !replay.wanted && replay.speed < 1;
}

$("pause").addEventListener("click", () => steer(state.replay.paused ? "resume" : "pause"));
for (const button of document.querySelectorAll("[data-steer]")) {
  button.addEventListener("click", () => steer(button.dataset.steer));
}
$("faster").addEventListener("click", () => steer("speed", state.replay.wanted * 2));
$("slower").addEventListener("click", () => {
  const { wanted, speed } = state.replay;
  // As fast as possible has no half: it becomes the next power of two below what it was.
  steer("speed", wanted ? wanted / 2 : 2 ** Math.floor(Math.log2(speed)));
});
$("stop").addEventListener("click", () => {
  const button = $("stop");
  if (button.dataset.sure) {
    steer("stop");
    return;
  }
  // It cannot be taken back, and stands beside what is pressed often.
  button.dataset.sure = "yes";
  set(button, "Stop the run? Press again");
  setTimeout(() => { delete button.dataset.sure; set(button, "Stop"); }, SURE_MS);
});

function onEntered(id, act) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const input = $(id).elements.value;
    if (await act(input.value.trim())) input.value = "";
  });
}
onEntered("to-speed", (value) => steer("speed", value));
onEntered("to-time", async (value) =>
  await steer("until", value) && (!state.replay.paused || steer("resume")));
onEntered("to-seek", (value) => steer("seek", value));
onEntered("to-loop", (value) => steer("loop", value));
$("density").addEventListener("click", (event) => {
  const { replay } = state;
  if (sessionStorage.getItem(TOKEN) === null || !state.run.steerable) return;
  const end = Math.max(replay.end, replay.event, replay.first + 1);
  const share = event.offsetX / $("density").clientWidth;
  steer("seek", new Date(replay.first + share * (end - replay.first)).toISOString());
});
onEntered("token-box", (value) => {
  sessionStorage.setItem(TOKEN, value);
  return steer("status");
});

// What the server sends.

function show() {
  const lost = Date.now() - heard > SILENT_MS;
  showHealth(lost);
  if (!state || lost) return;
  showHead();
  showPath();
  showTables();
  showStrikes();
  showDay();
}

const source = new EventSource("events");
source.onmessage = (event) => {
  const news = JSON.parse(event.data);
  heard = Date.now();
  if (news.whole) samples.length = 0;
  samples.push(...news.samples);
  if (samples.length > KEPT) samples.splice(0, samples.length - KEPT);
  state = news.state;
  addNotes(news.notes, news.whole);
  show();
  if (news.samples.length || news.whole) drawPlots();
};
source.onerror = () => {
  if (state && state.run.stopping) heard = 0;
};
heard = Date.now();
setInterval(() => { if (Date.now() - heard > SILENT_MS) show(); }, 500);
window.addEventListener("resize", () => { if (state) { drawPlots(); showDay(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state) { drawPlots(); showDay(); } });
