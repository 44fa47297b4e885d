// What the plots show: one sample for each status, made of it and the one before; bounded.

// Ten minutes, at one a second.
export const SAMPLES_MAX = 600;

export class History {
  #before = null;
  samples = [];

  // A status that was noted already changes nothing; returns whether it is new.
  note(status) {
    const before = this.#before;
    if (before?.at_us === status.at_us) return false;
    this.#before = status;
    if (before !== null) this.#push(sample(status, before));
    return true;
  }

  // Nothing is known of the time up to the next status: lines are broken there.
  interrupt() {
    if (this.#before === null) return;
    this.#push({ at: this.#before.at_us / 1e6 + 1, workers: [] });
    this.#before = null;
  }

  get last() {
    return this.samples.at(-1);
  }

  #push(sample) {
    this.samples.push(sample);
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }
}

function sample(now, before) {
  const seconds = (now.at_us - before.at_us) / 1e6;
  const common = { at: now.at_us / 1e6, since_us: before.at_us, subscribers: now.subscribers, workers: now.workers.map((worker) => worker.cpu) };
  // The relay was started anew, or its clock was set back.
  if (seconds <= 0 || now.uptime_s < before.uptime_s) return common;
  const rate = (of) => Math.max(0, of(now.totals) - of(before.totals)) / seconds;
  return {
    ...common,
    received_bps: 8 * rate((totals) => totals.received_bytes),
    sent_bps: 8 * rate((totals) => totals.sent_bytes),
    ...shards(now.channels, before.channels, seconds),
    ...delays(now),
  };
}

// Counts of a channel that is gone are gone too: each is compared with itself.
function shards(now, before, seconds) {
  const known = new Map(before.map((channel) => [channel.key, channel]));
  const grown = (name) =>
    now.reduce((sum, channel) => {
      const was = known.get(channel.key);
      return sum + (was === undefined ? 0 : Math.max(0, channel[name] - was[name]));
    }, 0) / seconds;
  return { lost: grown("shards_lost"), recovered: grown("shards_recovered"), repaired: grown("shards_repaired") };
}

function delays(status) {
  const all = [...channelDelays(status).values()].sort((a, b) => a - b);
  if (all.length === 0) return {};
  return { delay: all[Math.floor(all.length / 2)], delay_max: all.at(-1) };
}

// Of each channel, by its key: from capture to arrival here over the fastest of its upstreams, µs. Relays that do not tell
// about upstreams have none.
export function channelDelays(status) {
  const delays = new Map();
  for (const { channel, session } of status.upstreams ?? []) {
    const delay = session?.delay_us;
    if (typeof delay !== "number") continue;
    delays.set(channel, Math.min(delay, delays.get(channel) ?? Infinity));
  }
  return delays;
}
