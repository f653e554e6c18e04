// Status: what serving needs, who works, what waits, and how much room there is.

import { $, ago, api, bytes, count, duration, every, h, percent, short } from "./page.js";

const figures = (rows) => Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));

/** What a worker's device is, and how full its memory where it tells. */
function device({ name, device, gpu }) {
  if (gpu?.memory_used_bytes == null || !gpu.memory_total_bytes) return h("td", {}, device);
  const text = `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`;
  return h("td", { class: "meter-cell" }, device,
    h("progress", { max: 1, value: gpu.memory_used_bytes / gpu.memory_total_bytes, "aria-label": `Memory taken of the GPU of ${name}` }),
    h("span", { class: "quiet small" }, `${text}${gpu.utilization == null ? "" : `, ${percent(gpu.utilization, 0)} at work`}`));
}

async function refresh() {
  const response = await fetch("/readyz").catch(() => null);
  const ready = await response?.json().catch(() => null);
  $("#verdict").textContent = !response ? "Not reached" : response.ok ? "Ready" : "Not ready";
  $("#detail").textContent = !response ? "The service does not answer; asked again every two seconds." : response.ok ? "It serves, and takes jobs." : (ready?.detail ?? "");
  if (!response) return;
  $("#checks").replaceChildren(...Object.entries(ready?.checks ?? {}).map(([name, found]) => {
    const isReady = found === "ready";
    return h("div", { class: "check-one" }, h("span", { class: `chip ${isReady ? "ready" : found === "none yet" ? "queued" : "failed"}` }, name), h("span", { class: "quiet small" }, found));
  }));
  const [status, workers] = await Promise.all([api("/v1/status"), api("/v1/workers")]);
  const waiting = Object.values(status.queues).reduce((sum, one) => sum + one, 0);
  $("#jobs").replaceChildren(...figures({
    waiting: count(waiting), running: count(status.jobs.running ?? 0), paused: count(status.jobs.paused ?? 0),
    succeeded: count(status.jobs.succeeded ?? 0), failed: count(status.jobs.failed ?? 0), cancelled: count(status.jobs.cancelled ?? 0),
  }));
  const { disk, database } = status;
  $("#room").replaceChildren(...figures({ database: bytes(database.size_bytes), "disk free": bytes(disk.free_bytes), "of": bytes(disk.total_bytes), kind: database.description.split(" ").slice(0, 2).join(" ") }));
  $("#disk").value = 1 - disk.free_bytes / disk.total_bytes;
  const seconds = (time) => (Date.now() - new Date(time)) / 1000;
  $("#workers").replaceChildren(...workers.data.map((one) => h("tr", {},
    h("td", { class: "mono" }, one.name), device(one), h("td", {}, one.queues.join(", ")),
    h("td", {}, one.job_id ? h("a", { href: `/jobs/${one.job_id}` }, short(one.job_id)) : h("span", { class: "quiet" }, "idle")),
    h("td", { class: "n" }, duration(seconds(one.started_at))), h("td", { class: "n quiet" }, ago(one.seen_at)))));
  $("#table").hidden = !workers.data.length;
  $("#idle").hidden = workers.data.length > 0;
}
every(2000, refresh);
