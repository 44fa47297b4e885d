// Everything but the plots. What the relay says is set as text only: parts of it come from strangers.

import { bits, bytes, count, duration, key, micros, percent, perSecond } from "./format.js";
import { channelDelays } from "./history.js";

// A relay may carry thousands.
const ROWS_MAX = 100;

const NONE = "–";
const maybe = (say, value) => (value === null || value === undefined ? NONE : say(value));

// Parts of a status that not every relay has are left out where they are missing: drain, quota, egress, upstreams.

export class View {
  #heard = null;

  show(status, sample) {
    this.#heard = new Date();
    document.getElementById("silence").hidden = true;
    document.body.classList.remove("stale");
    field("listen", maybe(String, status.listen));
    field("version", status.version);
    field("uptime_s", duration(status.uptime_s));
    field("probe", status.probe);
    showState(status, sample);
    pairs("figures", figures(status, sample));
    pairs("totals", totals(status));
    rows("rates", status.rates, rateCells);
    rows("workers", status.workers, workerCells);
    showChannels(status);
    showUpstreams(status);
    // Which status the page shows now, and since which one its rates are, for whoever compares.
    Object.assign(document.documentElement.dataset, { atUs: status.at_us, sinceUs: sample?.since_us ?? 0 });
  }

  showSilence() {
    const place = document.getElementById("silence");
    // Said once, not each second.
    if (place.hidden) {
      place.textContent = this.#heard === null
        ? "The relay does not answer."
        : `The relay has not answered since ${this.#heard.toLocaleTimeString([], { hourCycle: "h23" })}. What is below is of then.`;
      place.hidden = false;
    }
    document.body.classList.add("stale");
    state("silent", "no answer", "no answer");
  }
}

function showState(status, sample) {
  const now = `${count(status.subscribers)} subscribers, ${maybe(bits, sample?.sent_bps)}`;
  const silent = "not healthy: a worker has said nothing for some seconds";
  if (!status.is_healthy) state("unhealthy", silent, "not healthy");
  else if (status.drain) state("draining", "draining", "draining");
  else if (status.quota?.state === "used-up") state("unhealthy", "quota used up", "quota used up");
  else state("healthy", "healthy", now);
}

// Only a change is announced.
function state(name, text, title) {
  const place = document.getElementById("state");
  place.dataset.state = name;
  if (place.textContent !== text) place.textContent = text;
  document.title = `${title} – superpeer`;
}

function figures(status, sample) {
  const { channels, drain, quota, egress } = status;
  const shown = [
    ["in", "In", maybe(bits, sample?.received_bps)],
    ["out", "Out", maybe(bits, sample?.sent_bps)],
    ["subscribers", "Subscribers", count(status.subscribers)],
    ["channels", "Channels", count(channels.length)],
    ["sessions", "Sessions", count(status.sessions)],
    ["cpu", "Processor", percent(status.workers.reduce((sum, worker) => sum + worker.cpu, 0))],
    ["rss_bytes", "Memory", maybe(bytes, status.rss_bytes)],
    ["window_bytes", "Windows", bytes(status.window_bytes)],
  ];
  if (drain) {
    const left = `${count(drain.sessions)} of ${count(drain.sessions_at_start)} left`;
    shown.push(["drain", `Sessions, ends within ${duration(drain.seconds_left)}`, left]);
  }
  if (quota) {
    const what = [
      `Quota to ${String(quota.period_end).slice(0, 10)}`,
      quota.state === "ok" ? "" : quota.state.replace("-", " "),
      quota.is_written ? "" : "not written down",
    ];
    shown.push(["quota", what.filter(Boolean).join(", "), `${bytes(quota.used_bytes)} of ${bytes(quota.max_bytes)}`]);
  }
  if (egress?.max_bps) {
    shown.push(["egress", "Egress of its cap", `${bits(egress.sent_bps)} of ${bits(egress.max_bps)}`]);
    shown.push(["promised", "Promised", bits(egress.promised_bps)]);
  }
  return shown;
}

function totals({ totals, egress }) {
  const shown = [
    ["received_bytes", "Payload in", bytes(totals.received_bytes)],
    ["sent_bytes", "Payload out", bytes(totals.sent_bytes)],
    ["sent_datagrams", "Datagrams out", count(totals.sent_datagrams)],
    ["zero_copy_bytes", "Out without a copy", maybe(bytes, totals.zero_copy_bytes)],
    ["sessions_granted", "Sessions granted", count(totals.sessions_granted)],
    ["sessions_refused", "Sessions refused", count(totals.sessions_refused)],
    ["sessions_strained", "Lines too thin", count(totals.sessions_strained)],
    ["chunks_lost", "Chunks given up", count(totals.chunks_lost)],
    ["jobs_skipped", "Trains too late", count(totals.jobs_skipped)],
    ["send_errors", "Not sent", count(totals.send_errors)],
    ["dropped", "Datagrams dropped", count(totals.dropped)],
  ];
  if (egress?.max_bps) {
    shown.push(["egress_refused", "Refused by the cap", count(egress.refused)]);
    shown.push(["egress_let_go", "Let go by the cap", count(egress.let_go)]);
  }
  return shown;
}

const rateCells = (rates) => [
  duration(rates.seconds),
  bits(rates.received_bps),
  bits(rates.sent_bps),
  perSecond(rates.received_datagrams_per_s),
  perSecond(rates.sent_datagrams_per_s),
];

const workerCells = (worker, at) => [String(at), percent(worker.cpu), count(worker.sessions), bits(worker.sent_bps)];

function showChannels(status) {
  const delays = channelDelays(status);
  const shown = status.channels.slice(0, ROWS_MAX);
  rows("channels", shown, (channel) => [
    { text: key(channel.key), title: channel.key },
    count(channel.subscribers),
    count(channel.upstreams),
    bits(channel.received_bps),
    bits(channel.sent_bps),
    maybe(micros, delays.get(channel.key)),
    count(channel.shards_received),
    count(channel.shards_lost),
    count(channel.shards_recovered),
    count(channel.shards_repaired),
  ]);
  note("channels-note", status.channels.length, "No channel is carried.");
}

function showUpstreams(status) {
  document.getElementById("upstreams-section").hidden = status.upstreams === undefined;
  if (status.upstreams === undefined) return;
  rows("upstreams", status.upstreams.slice(0, ROWS_MAX), ({ session, ...upstream }) => [
    { text: upstream.name, title: maybe(String, upstream.address) },
    { text: key(upstream.channel), title: upstream.channel },
    [upstream.role, upstream.state.replace("_", " "), upstream.reason].filter(Boolean).join(", "),
    maybe(duration, session?.age_s),
    maybe(percent, session?.share),
    maybe(micros, session?.rtt_us),
    maybe(micros, session?.delay_us),
    maybe(micros, session?.spread_us),
    maybe(count, session?.shards_received),
    maybe(count, session?.shards_lost),
    maybe(count, session?.shards_recovered),
    maybe(count, session?.shards_repaired),
  ]);
  note("upstreams-note", status.upstreams.length, "Nobody gives a channel.");
}

function note(id, length, none) {
  const more = length > ROWS_MAX ? `The first ${ROWS_MAX} of ${count(length)}.` : "";
  document.getElementById(id).textContent = length === 0 ? none : more;
}

function field(name, text) {
  document.querySelector(`[data-field="${name}"]`).textContent = text;
}

// A list of terms and what they are: [name, term, text].
function pairs(id, shown) {
  const list = document.getElementById(id);
  while (list.childElementCount > shown.length) list.lastElementChild.remove();
  shown.forEach(([name, term, text], at) => {
    const pair = list.children[at] ?? list.appendChild(pairElement());
    pair.firstElementChild.textContent = term;
    pair.lastElementChild.textContent = text;
    pair.lastElementChild.dataset.field = name;
  });
}

function pairElement() {
  const pair = document.createElement("div");
  pair.append(document.createElement("dt"), document.createElement("dd"));
  return pair;
}

// Rows stay and their text changes: what is selected stays so, and a reader is not thrown out of the table.
function rows(id, items, cellsOf) {
  const body = document.getElementById(id).tBodies[0];
  while (body.rows.length > items.length) body.deleteRow(-1);
  items.forEach((item, at) => {
    const row = body.rows[at] ?? body.insertRow();
    cellsOf(item, at).forEach((cell, place) => {
      const { text, title } = typeof cell === "string" ? { text: cell } : cell;
      const element = row.cells[place] ?? row.appendChild(cellElement(place));
      if (element.textContent !== text) element.textContent = text;
      if (title !== undefined) element.title = title;
    });
  });
}

function cellElement(place) {
  const element = document.createElement(place === 0 ? "th" : "td");
  if (place === 0) element.scope = "row";
  return element;
}
