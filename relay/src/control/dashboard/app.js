// Asks for /status once a second and shows it.

import { History } from "./history.js";
import { Plots } from "./plots.js";
import { View } from "./view.js";

const INTERVAL_MS = 1_000;

// Who says nothing for so long does not answer.
const PATIENCE_MS = 3_000;

const history = new History();
const plots = new Plots(document.getElementById("plots"), history);
const view = new View();

async function ask() {
  const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`the relay answers ${answer.status}`);
  return answer.json();
}

function show(status) {
  // Before its first count a relay has nothing to show but that it runs.
  if (status.at_us > 0 && history.note(status)) plots.show(status.workers.length);
  view.show(status, history.last);
}

// Never two questions at once, however long an answer takes.
for (;;) {
  const begun = performance.now();
  const status = await ask().catch(() => null);
  if (status === null) {
    history.interrupt();
    view.showSilence();
  } else {
    show(status);
  }
  const rest = Math.max(0, INTERVAL_MS - (performance.now() - begun));
  await new Promise((resolve) => setTimeout(resolve, rest));
}
