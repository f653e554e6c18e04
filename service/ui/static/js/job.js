// Follow, one job: its events from the first, then as they happen; a cut connection goes on where it was cut.

import { $, $$, Problem, api, chip, colour, count, duration, figure, h, metric, moment, nameOf, onColours, percent, told, words } from "./page.js";
import "./chart.js";

const id = location.pathname.split("/")[2];
const path = `/v1/jobs/${encodeURIComponent(id)}`;
const RETRY = 2000; // milliseconds, as the stream itself asks for
const MOST_LINES = 200; // of the log

const series = new Map(); // by metric: [[step, epoch, value], ...]
let last = 0; // number of the last event
let job = null;

// ---- events

function follow() {
  const source = new EventSource(`${path}/events?after=${last}`);
  source.onopen = () => ($("#link-state").textContent = "");
  source.onerror = () => {
    $("#link-state").textContent = "connection lost, trying again";
    if (source.readyState !== EventSource.CLOSED) return; // it comes again by itself
    setTimeout(follow, RETRY);
  };
  for (const type of ["status", "progress", "metric", "checkpoint", "log", "warning", "end"]) {
    source.addEventListener(type, (event) => {
      const number = Number(event.lastEventId);
      if (number <= last) return;
      last = number;
      HAPPENED[type](JSON.parse(event.data));
      if (type !== "progress" && type !== "metric") line(type, JSON.parse(event.data));
      if (type === "end") source.close();
    });
  }
}

const HAPPENED = {
  status: (data) => told(() => moved(data)),
  progress: (data) => progressed(data),
  metric: ({ step, epoch, metrics }) => {
    for (const [name, value] of Object.entries(metrics)) {
      if (!series.has(name)) series.set(name, []);
      const points = series.get(name);
      while (points.length && points.at(-1)[0] >= step) points.pop(); // a worker that took over repeats some steps
      points.push([step, epoch, value]);
    }
    measured(metrics);
  },
  checkpoint: () => undefined,
  log: () => undefined,
  warning: () => undefined,
  end: () => told(refresh),
};

let isAsked = false;
/** What a change of state changes is told by the job itself; once, however many changes come. */
async function moved() {
  if (isAsked) return;
  isAsked = true;
  await new Promise((resolve) => setTimeout(resolve, 60));
  isAsked = false;
  await refresh();
}

async function refresh() {
  job = await api(path);
  document.title = `${nameOf(job)} · Numeral`;
  $("#name").textContent = nameOf(job);
  $("#state").replaceChildren(chip(job.state));
  const isOffered = {
    pause: ["queued", "running"].includes(job.state),
    resume: ["paused", "pausing"].includes(job.state),
    cancel: ["queued", "running", "paused", "pausing"].includes(job.state),
  };
  for (const button of $$("[data-do]")) button.hidden = !isOffered[button.dataset.do];
  $("#clone").href = `/train?job=${job.id}`;
  $("#error").hidden = !job.error;
  $("#error").textContent = job.error ? `${words(job.error.code)}: ${job.error.detail}` : "";
  $("#spec").textContent = JSON.stringify(job.spec, null, 2);
  progressed(job.progress);
  measured(job.metrics);
  facts();
  const isRegression = job.spec.dataset.name === "simulated";
  $("#fit-sheet").hidden = !isRegression;
  $("#accuracy-sheet").hidden = isRegression;
  const hasModel = Boolean(job.model_id) && !isRegression;
  for (const [name, address] of [["look", `/look?job=${job.id}`], ["draw", `/?model=${job.model_id}`]]) {
    $(`#${name}`).hidden = !hasModel;
    $(`#${name}`).href = address;
  }
  $("#downloads").hidden = !job.finished_at || !series.size;
  $("[data-plot]").href = `${path}/plots/loss.csv`;
  $("#tfevents").href = `${path}/metrics.tfevents`;
  $("#weights").hidden = !job.model_id;
  $("#weights").href = `/v1/models/${job.model_id}/download`;
  if (job.state === "succeeded") await report();
  if (isRegression) await fitted();
}

function progressed({ step, steps, epoch, epochs, images_per_second: speed, eta_seconds: eta }) {
  $("#bar").value = steps ? step / steps : 0;
  const waits = job?.state === "queued" ? (job.queue_position ? `${count(job.queue_position)} jobs go before it` : "it goes next") : "waiting";
  $("#where").textContent = step === null || step === undefined ? waits : `step ${count(step)} of ${count(steps)}, epoch ${figure(epoch)} of ${figure(epochs)}`;
  $("#speed").textContent = [speed ? `${count(Math.round(speed))} images a second` : "", eta && job?.state === "running" ? `${duration(eta)} to go` : ""].filter(Boolean).join(", ");
}

const newest = {};
function measured(metrics) {
  Object.assign(newest, metrics);
  const names = ["test_accuracy", "validation_accuracy", "train_accuracy", "test_loss", "validation_loss", "train_loss"].filter((name) => name in newest);
  $("#metrics").replaceChildren(...names.map((name) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, metric(name, newest[name])))));
  const lines = (what) => [["train", "--s1"], ["validation", "--s3"], ["test", "--s2"]].map(([part, hue]) => ({ label: part, colour: hue, points: series.get(`${part}_${what}`) ?? [] }));
  $("#loss").series = lines("loss");
  $("#accuracy").series = lines("accuracy");
}

function facts() {
  const rows = {
    id: h("span", { class: "mono" }, job.id),
    preset: job.preset ?? "none",
    parameters: count(job.parameter_count),
    device: job.device ?? "none yet",
    submitted: moment(job.created_at),
    started: moment(job.started_at),
    finished: moment(job.finished_at),
    attempts: String(job.attempt),
    ...(job.model_id && { model: h("a", { href: `/models?model=${job.model_id}` }, job.model_id) }),
    ...(job.weights_sha256 && { "weights, SHA-256": h("span", { class: "mono" }, job.weights_sha256) }),
    ...(job.dataset_sha256 && { "data, SHA-256": h("span", { class: "mono" }, job.dataset_sha256) }),
  };
  $("#facts").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function line(type, data) {
  const text = { status: data.state, end: data.state, checkpoint: `step ${data.step}, ${data.reason}` }[type] ?? data.detail ?? data.message ?? JSON.stringify(data);
  $("#log").prepend(h("li", {}, h("span", { class: "quiet" }, `#${last}`), h("span", {}, type), h("span", {}, text ?? "")));
  if ($("#log").childElementCount > MOST_LINES) $("#log").lastChild.remove();
}

async function report() {
  const found = await api(`${path}/report`).catch((error) => (error instanceof Problem ? null : Promise.reject(error)));
  $("#published").hidden = !found?.published.length;
  if (!found?.published.length) return;
  const range = (one) => (one.range ? `${metric(one.name, one.range[0])} to ${metric(one.name, one.range[1])}` : "–");
  $("#published-rows").replaceChildren(...found.published.map((one) =>
    h("tr", {}, h("td", {}, words(one.name)), h("td", { class: "n" }, metric(one.name, one.published)), h("td", { class: "n" }, h("strong", {}, metric(one.name, one.ours))),
      h("td", {}, range(one), " ", one.within === null ? "" : h("span", { class: one.within ? "tag" : "tag plain" }, one.within ? "within" : "outside")))));
  $("#overrides").textContent = found.overrides.length ? `This job differs from the preset in ${found.overrides.map((one) => one.slice(2).replaceAll("/", ".")).join(", ")}.` : "";
}

// ---- a regression's curve, scrubbed through the iterations

let curves = null;
async function fitted() {
  const found = await api(`${path}/curves?max_curves=400`);
  const isAtEnd = !curves || Number($("#scrub").value) === curves.curves.length - 1;
  curves = found;
  $("#scrub").max = Math.max(0, curves.curves.length - 1);
  if (isAtEnd) $("#scrub").value = curves.curves.length - 1;
  fit();
}

function fit() {
  const canvas = $("#fit");
  const chosen = curves?.curves[Number($("#scrub").value)];
  if (!curves || !canvas.clientWidth) return;
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const values = [...curves.truth, ...(chosen?.y ?? [])];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [left, right] = [curves.x[0], curves.x.at(-1)];
  const at = (x, y) => [8 + ((x - left) / (right - left)) * (width - 16), height - 10 - ((y - low) / (high - low)) * (height - 20)];
  const draw = (ys, hue, dash) => {
    context.beginPath();
    ys.forEach((y, index) => context.lineTo(...at(curves.x[index], y)));
    Object.assign(context, { strokeStyle: colour(hue), lineWidth: 2.2, lineJoin: "round" });
    context.setLineDash(dash);
    context.stroke();
  };
  draw(curves.truth, "--edge", [5, 5]);
  if (chosen) draw(chosen.y, "--accent", []);
  const away = chosen ? Math.sqrt(chosen.y.reduce((sum, y, index) => sum + (y - curves.truth[index]) ** 2, 0) / chosen.y.length) : null;
  $("#fit-step").textContent = chosen ? `step ${count(chosen.step)}, ${figure(away)} from the true function (root mean square)` : "no curve yet";
  $("#scrub").setAttribute("aria-valuetext", chosen ? `step ${chosen.step}` : "none");
}
$("#scrub").addEventListener("input", fit);
new ResizeObserver(fit).observe($("#fit"));
onColours(fit);

$("#actions").addEventListener("click", async (event) => {
  const wanted = event.target.dataset.do;
  if (!wanted) return;
  event.target.disabled = true;
  await told(() => api(`${path}/${wanted}`, { method: "POST" }));
  event.target.disabled = false;
  await told(refresh);
});

told(refresh).then(() => {
  if (job) follow();
  else $("#name").textContent = "There is no such job";
});
