// Look: what a network mistakes, what its first layer looks for, and how one digit makes its way through it.

import { $, all, api, colour, count, h, nameOf, onColours, paint, percent, pixels as digitOf, told } from "./page.js";
import "./pad.js";

const PAGE = 24;
const MOST_TILES = 64;
const pad = $("#pad");
let models = [];
let model = null;

// ---- colours of signed numbers

/** Red, green and blue of the colours of plus, minus and zero. */
function palette() {
  const rgb = (name) => colour(name).match(/[\d.]+/g).slice(0, 3).map(Number);
  return { plus: rgb("--accent"), minus: rgb("--s2"), zero: rgb("--well") };
}

/** Draw signed numbers into a canvas, as wide as told, the largest in full colour. */
function signed(canvas, values, columns, { plus, minus, zero } = palette(), top = Math.max(...values.map(Math.abs), 1e-12)) {
  canvas.width = columns;
  canvas.height = Math.ceil(values.length / columns);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, index) => {
    const share = Math.min(1, Math.abs(value) / top);
    const end = value < 0 ? minus : plus;
    image.data.set([...zero.map((from, part) => from + (end[part] - from) * share), 255], 4 * index);
  });
  context.putImageData(image, 0, 0);
}

/** Rows of a CSV of numbers, without its header. */
async function numbers(response) {
  const lines = (await response.text()).trim().split("\n").slice(1);
  return lines.map((line) => line.split(",").map(Number));
}

// ---- mistakes

let filter = {};
let after = null;

async function confusion() {
  const report = await api(`/v1/jobs/${model.job_id}/report`);
  const matrix = report.confusion_matrix;
  const { errors, examples, accuracy } = report.parts.test;
  $("#summary").textContent = `${count(errors)} of ${count(examples)} are read wrong (${percent(accuracy)} right). Rows are what was written, columns what was read; choose a cell to see its images.`;
  const worst = Math.max(...matrix.flatMap((row, y) => row.filter((_, x) => x !== y)), 1);
  const cell = (value, y, x) => {
    if (x === y) return h("td", { class: "right" }, String(value));
    if (!value) return h("td", {}, h("span", { class: "quiet" }, "·"));
    const button = h("button", { type: "button", "aria-label": `${y} read as ${x}: ${value}`, onclick: () => open({ true: y, predicted: x }) }, String(value));
    const share = value / worst;
    const isHot = share > 0.4; // between the two, neither dark nor light figures could be read
    button.style.setProperty("--heat", (isHot ? 0.7 + 0.3 * share : 0.1 + 0.4 * Math.sqrt(share / 0.4)).toFixed(3));
    button.classList.toggle("hot", isHot);
    return h("td", {}, button);
  };
  const digits = matrix.map((_, digit) => digit);
  $("#confusion").replaceChildren(
    $("#confusion caption"),
    h("thead", {}, h("tr", {}, h("td", {}), digits.map((digit) => h("th", { scope: "col" }, String(digit))))),
    h("tbody", {}, matrix.map((row, y) => h("tr", {}, h("th", { scope: "row" }, String(y)), row.map((value, x) => cell(value, y, x))))));
}

async function open(wanted) {
  filter = wanted;
  after = null;
  $("#gallery").replaceChildren();
  $("#every").hidden = wanted.true === undefined;
  await told(more);
}

async function more() {
  const query = new URLSearchParams({ pixels: "true", limit: PAGE, ...filter, ...(after && { after }) });
  const page = await api(`/v1/jobs/${model.job_id}/misclassified?${query}`);
  $("#gallery-title").textContent = filter.true === undefined ? `${count(page.total)} mistakes, worst first` : `${filter.true} read as ${filter.predicted}: ${count(page.total)}, worst first`;
  after = page.next;
  $("#more").hidden = !page.has_more;
  $("#gallery").append(...page.data.map((one) => {
    const label = `${one.true} read as ${one.predicted}, ${percent(one.confidence, 1)}`;
    return h("button", { type: "button", class: "mistake-one", "aria-label": `${label}: look at it`, disabled: !one.pixels, onclick: () => explain(one.pixels) },
      one.pixels ? digitOf(one.pixels, "") : h("span", { class: "quiet small" }, "not kept"), h("span", {}, h("b", {}, String(one.true)), " as ", h("b", {}, String(one.predicted))), h("span", { class: "quiet" }, percent(one.confidence, 0)));
  }));
  for (const canvas of $("#gallery").querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
}

// ---- one digit

let shown = null; // the newest body that was explained: pixels, or a picture
let explanation = null;
let isAsking = false;
let isStale = false;

pad.addEventListener("ink", async () => {
  if (!pad.isEmpty) await explain(await pad.picture());
});

async function explain(body) {
  shown = body;
  isStale = true;
  if (isAsking) return;
  isAsking = true;
  while (isStale) {
    isStale = false;
    await told(ask);
  }
  isAsking = false;
}

async function ask() {
  const label = $("#why").value;
  const path = `/v1/models/${model.id}/explain${label && `?label=${label}`}`;
  explanation = Array.isArray(shown) ? await api(path, { json: { images: [shown] } }) : await api(path, { method: "POST", body: shown, headers: { "Content-Type": "image/png" } });
  draw();
}

function draw() {
  if (!explanation) return;
  const { label, probabilities, layers, saliency } = explanation;
  const top = probabilities.indexOf(Math.max(...probabilities));
  $("#read").textContent = `Read as ${top}, ${percent(probabilities[top], 1)}.${label === top ? "" : ` As ${label}: ${percent(probabilities[label], 1)}.`}`;
  paint($("#seen"), explanation.pixels);
  signed($("#saliency"), saliency, 28);
  $("#saliency").setAttribute("aria-label", `Pixels that speak for and against ${label}`);
  $("#layers").replaceChildren(...layers.map(({ units, activation, values }, index) => {
    const columns = Math.min(units, Math.max(16, Math.ceil(Math.sqrt(units * 6))));
    const canvas = h("canvas", { class: "strip", role: "img", "aria-label": `Outputs of hidden layer ${index + 1}` });
    signed(canvas, values, columns);
    canvas.style.aspectRatio = `${columns} / ${Math.ceil(units / columns)}`;
    const active = values.filter((value) => Math.abs(value) > 1e-6).length;
    return h("figure", { class: "layer" }, h("figcaption", {}, `hidden layer ${index + 1}: ${count(active)} of ${count(units)} units active (${activation})`), canvas);
  }), outputs(probabilities, top));
}

function outputs(probabilities, top) {
  const canvas = h("canvas", { class: "strip out", role: "img", "aria-label": "Probabilities of the ten digits" });
  signed(canvas, probabilities, 10);
  return h("figure", { class: "layer" }, h("figcaption", {}, "output"), canvas, h("div", { class: "tens", "aria-hidden": "true" }, probabilities.map((_, digit) => h(digit === top ? "b" : "span", {}, String(digit)))));
}

// ---- the first layer

let tiles = [];
async function weights() {
  const response = await fetch(`/v1/jobs/${model.job_id}/plots/weights.csv?limit=${MOST_TILES}`);
  tiles = response.ok ? await numbers(response) : [];
  drawTiles();
}

function drawTiles() {
  const colours = palette();
  $("#tiles").replaceChildren(...tiles.map(([unit, , ...values]) => {
    const canvas = h("canvas", { class: "pixels", role: "img", "aria-label": `Weights of unit ${unit}` });
    signed(canvas, values, 28, colours);
    return canvas;
  }));
}

// ---- augmentation

let seed = 1;
let wanted = 0;
let isDeforming = false;

async function deform() {
  const augmentation = {};
  for (const input of $("#sliders").querySelectorAll("input")) {
    augmentation[input.name] = Number(input.value);
    input.previousElementSibling.textContent = input.value;
  }
  $("#use").href = `/train#${encodeURIComponent(JSON.stringify({ spec: { augmentation } }))}`;
  wanted += 1;
  if (isDeforming) return;
  isDeforming = true;
  const asked = wanted;
  const body = JSON.stringify({ augmentation, seed, count: 8, variants: 4, format: "csv" });
  const response = await fetch("/v1/augmentations/preview", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (response.ok) {
    const rows = await numbers(response);
    $("#deformed").replaceChildren(...rows.map(([, , variant, ...values]) => {
      const canvas = paint(h("canvas", { class: `pixels ${variant ? "" : "original"}` }), values);
      return canvas;
    }));
  } else {
    $("#deformed-note").textContent = (await response.json()).detail;
  }
  isDeforming = false;
  if (asked !== wanted) deform();
}

$("#sliders").addEventListener("input", deform);
$("#reseed").addEventListener("click", () => {
  seed += 1;
  deform();
});
$("#every").addEventListener("click", () => open({}));
$("#more").addEventListener("click", () => told(more));
$("#why").addEventListener("change", () => shown && explain(shown));
$("#model").addEventListener("change", () => look($("#model").value));
onColours(() => {
  drawTiles();
  draw();
});

async function look(id) {
  model = models.find((one) => one.id === id);
  history.replaceState(null, "", `?job=${model.job_id}`);
  await Promise.all([told(confusion), open({}), told(weights)]);
  if (shown) await explain(shown);
}

told(async () => {
  models = (await all("/v1/models", 200)).filter((one) => one.task === "classification");
  $("#model").replaceChildren(...models.map((one) => h("option", { value: one.id }, `version ${one.version}, ${nameOf(one)}`)));
  $("#empty").hidden = models.length > 0;
  $("#mistakes").hidden = !models.length;
  const job = new URLSearchParams(location.search).get("job");
  const first = models.find((one) => one.job_id === job) ?? models[0];
  deform();
  if (!first) return;
  $("#model").value = first.id;
  await look(first.id);
});
