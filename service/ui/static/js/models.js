// Models: versions, the names that point at them, and where each comes from.

import { $, all, api, ago, count, duration, figure, h, metric, moment, nameOf, percent, told, toast, words } from "./page.js";

let models = [];
let chosen = new URLSearchParams(location.search).get("model");

async function refresh() {
  const [versions, aliases] = await Promise.all([all("/v1/models"), api("/v1/aliases")]);
  models = versions;
  $("#versions").replaceChildren(...models.map(row));
  $("#empty").hidden = models.length > 0;
  $("#aliases").replaceChildren(...latestRow(), ...aliases.data.map(aliasRow));
  const found = models.find((one) => one.id === chosen || one.aliases.includes(chosen) || String(one.version) === chosen) ?? models[0];
  if (found) show(found);
}

const versionOf = (id) => models.find((one) => one.id === id);
const named = (model) => (model ? `version ${model.version}` : "a model that is gone");
const opener = (model) => (model ? h("button", { type: "button", class: "link", onclick: () => pick(model) }, named(model)) : named(model));

function latestRow() {
  const newest = models.find((one) => one.aliases.includes("latest"));
  if (!newest) return [];
  return [h("tr", {}, h("td", {}, h("strong", {}, "latest")), h("td", {}, opener(newest)), h("td", {}), h("td", { class: "n" }, percent(newest.metrics.test_accuracy)), h("td", { class: "n quiet" }, ago(newest.created_at)), h("td", { class: "n quiet" }, "by itself"))];
}

function aliasRow(alias) {
  const model = versionOf(alias.model);
  return h("tr", {},
    h("td", {}, h("strong", {}, alias.name)), h("td", {}, opener(model)),
    h("td", {}, h("div", { class: "row tight" }, h("button", { type: "button", onclick: () => rollBack(alias.name) }, "Roll back"), h("button", { type: "button", class: "link", onclick: () => tell(alias.name) }, "History"))),
    h("td", { class: "n" }, percent(model?.metrics.test_accuracy)), h("td", { class: "n quiet" }, ago(alias.updated_at)), h("td", { class: "n" }, count(alias.seq)));
}

function row(model) {
  return h("tr", { class: "linked", data: { model: model.id }, onclick: () => pick(model) },
    h("td", { class: "n" }, h("button", { type: "button", class: "link", "aria-label": `Show version ${model.version}` }, String(model.version))),
    h("td", {}, nameOf(model)),
    h("td", {}, h("div", { class: "row" }, model.aliases.map((name) => h("span", { class: "tag" }, name)))),
    h("td", { class: "n" }, h("strong", {}, percent(model.metrics.test_accuracy))),
    h("td", { class: "n" }, count(model.parameter_count)));
}

function pick(model) {
  $("#gate").replaceChildren();
  history.replaceState(null, "", `?model=${model.id}`);
  show(model);
  if (innerWidth < 1000) $("#card").scrollIntoView({ block: "start" });
}

function show(model) {
  chosen = model.id;
  for (const one of $("#versions").children) one.classList.toggle("chosen", one.dataset.model === model.id);
  $("#card").hidden = false;
  $("#card-title").textContent = `Version ${model.version}`;
  $("#card-tags").replaceChildren(...model.aliases.map((name) => h("span", { class: "tag" }, name)));
  const wanted = ["test_accuracy", "train_accuracy", "test_loss", "train_loss"].filter((name) => name in model.metrics);
  $("#card-metrics").replaceChildren(...wanted.map((name) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, metric(name, model.metrics[name])))));
  const isReader = model.task === "classification";
  $("#promote").hidden = !isReader;
  $("#download").href = `/v1/models/${model.id}/download`;
  $("#onnx").href = `/v1/models/${model.id}/download?format=onnx`;
  $("#again").href = `/train?job=${model.job_id}`;
  for (const [name, address] of [["inside", `/look?job=${model.job_id}`], ["drawn", `/?model=${model.id}`]]) {
    $(`#${name}`).hidden = !isReader;
    $(`#${name}`).href = address;
  }
  const { versions = {}, device, seed, precision, threads, ...rest } = model.provenance;
  const mono = (text) => h("span", { class: "mono" }, text);
  const facts = {
    id: mono(model.id), job: h("a", { href: `/jobs/${model.job_id}` }, model.job_id), preset: model.preset ?? "none", registered: moment(model.created_at),
    device: device ?? "–", seed: String(seed ?? model.spec.seed), precision: precision ?? "–", threads: count(threads),
    ...(rest.runtime_seconds && { time: duration(rest.runtime_seconds) }),
    preprocessing: `version ${model.preprocessing}`,
    ...(model.calibration && { temperature: figure(model.calibration.temperature) }),
    "data, SHA-256": mono(model.dataset_sha256), "weights, SHA-256": mono(model.weights_sha256),
    versions: Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "),
  };
  $("#card-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  $("#card-spec").textContent = JSON.stringify(model.spec, null, 2);
}

$("#promote").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("#alias").value.trim();
  const path = `/v1/aliases/${encodeURIComponent(name)}`;
  const isGated = $("#gated").checked;
  const button = $("#promote button");
  button.disabled = true;
  $("#gate").replaceChildren(...(isGated ? [h("p", { class: "quiet small" }, "Both read the test set …")] : []));
  let gate = null;
  const moved = await told(async () => {
    try {
      return isGated ? await api(`${path}/promote`, { json: { model: chosen } }) : await api(path, { method: "PUT", json: { model: chosen } });
    } catch (error) {
      if (!error.gate) throw error;
      gate = error.gate; // it is told below, with its numbers
      return undefined;
    }
  });
  button.disabled = false;
  if (moved) toast(`${name} points at ${named(versionOf(moved.model))}`);
  await told(refresh);
  gate ??= moved?.gate;
  $("#gate").replaceChildren(...(gate ? [verdict(name, gate)] : []));
});

/** What the test found, in words and numbers. */
function verdict(name, gate) {
  const row = (id, accuracy, only) => h("tr", {}, h("td", {}, named(versionOf(id))), h("td", { class: "n" }, percent(accuracy)), h("td", { class: "n" }, count(only)));
  const chance = gate.p_value < 1e-4 ? "under 0.0001" : figure(gate.p_value);
  return h("div", { class: gate.passed ? "note stack" : "note bad stack" },
    h("p", {}, h("strong", {}, gate.passed ? `Promoted: ${name} has moved.` : `Refused: ${name} stays where it is.`),
      ` Of the images that only one of the two reads right, ${count(gate.only_present_right)} fall to the model there before and ${count(gate.only_candidate_right)} to this one. By luck alone a split so bad for this one has a chance of ${chance}; below ${gate.level} it is refused.`),
    h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}, `Test set of ${gate.dataset}, ${count(gate.examples)}`), h("th", { class: "n" }, "Read right"), h("th", { class: "n" }, "Alone right"))),
      h("tbody", {}, row(gate.present, gate.accuracy_present, gate.only_present_right), row(gate.candidate, gate.accuracy_candidate, gate.only_candidate_right))));
}

async function rollBack(name) {
  const moved = await told(() => api(`/v1/aliases/${encodeURIComponent(name)}/rollback`, { method: "POST" }));
  if (moved) toast(`${name} points at ${named(versionOf(moved.model))} again`);
  await told(refresh);
}

async function tell(name) {
  const alias = await told(() => api(`/v1/aliases/${encodeURIComponent(name)}`));
  if (!alias) return;
  $("#history-title").textContent = `Moves of ${name}`;
  $("#moves").replaceChildren(...alias.history.map((one) => h("li", {}, `${named(versionOf(one.model))}, ${words(one.action)}, ${moment(one.time)}`)));
  $("#history").showModal();
}
$("#history").addEventListener("click", (event) => event.target.dataset.do === "close" && $("#history").close());

told(refresh);
