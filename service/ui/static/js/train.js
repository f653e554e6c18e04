// Train: a form of every field, told beforehand what it would come to.

import { $, $$, Problem, api, bytes, copy, count, duration, h, told } from "./page.js";

const form = $("#form");
const blocks = $$(".block", form);
const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isBlock = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// ---- inputs and the values that they stand for

const shown = {
  number: (value) => (value === null ? "" : String(value)),
  text: (value) => (value === null ? "" : String(value)),
  choice: (value) => value ?? "",
  list: (value) => value.join(", "),
  json: (value) => (value === null ? "" : JSON.stringify(value)),
};

function read(input) {
  const { kind, nullable } = input.dataset;
  if (kind === "switch") return input.checked;
  const text = input.value.trim();
  if (kind === "list") return text ? text.split(/[\s,;-]+/).map(parsed) : [];
  if (text === "" && nullable === "true") return null;
  return kind === "choice" ? text : parsed(text);
}

/** As JSON, else as text, which the service then refuses by its field. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function write(input, value) {
  if (input.dataset.kind === "switch") input.checked = value;
  else input.value = shown[input.dataset.kind](value);
}

const inputsOf = (fieldset) => $$("[data-kind]", fieldset);
const keyOf = (input) => input.closest(".field").dataset.pointer.split("/").at(-1);
const activeFieldset = (block) => $("fieldset:not([hidden])", block);

function specNow() {
  const spec = {};
  for (const block of blocks) {
    const { block: name } = block.dataset;
    const enable = $(".enable", block);
    if (enable && !enable.checked) {
      spec[name] = null;
      continue;
    }
    const fieldset = activeFieldset(block);
    const values = Object.fromEntries(inputsOf(fieldset).map((input) => [keyOf(input), read(input)]));
    if (name === "run") Object.assign(spec, values);
    else spec[name] = fieldset.dataset.variant ? { name: fieldset.dataset.variant, ...values } : values;
  }
  return spec;
}

function fill(spec) {
  for (const block of blocks) {
    const { block: name } = block.dataset;
    const values = name === "run" ? spec : spec[name];
    const enable = $(".enable", block);
    if (enable) enable.checked = Boolean(values);
    const variant = $(".variant", block);
    if (variant) variant.value = values?.name ?? variant.dataset.default;
    arrange(block);
    for (const fieldset of $$("fieldset", block)) {
      const applies = values && !fieldset.hidden;
      for (const input of inputsOf(fieldset)) {
        const value = applies ? values[keyOf(input)] : undefined;
        write(input, value === undefined ? JSON.parse(input.dataset.default) : value);
      }
    }
  }
}

/** Show the fields that apply. */
function arrange(block) {
  const variant = $(".variant", block)?.value ?? "";
  const enable = $(".enable", block);
  for (const fieldset of $$("fieldset", block)) {
    fieldset.hidden = fieldset.dataset.variant !== variant;
    fieldset.disabled = fieldset.hidden || Boolean(enable && !enable.checked);
    if (enable) $(".fields", fieldset).hidden = !enable.checked;
  }
}

/** What of `spec` differs from `base`, as the service lays it over. */
function difference(base, spec) {
  const found = {};
  for (const [key, value] of Object.entries(spec)) {
    const old = base[key];
    if (isEqual(old, value)) continue;
    const lays = isBlock(old) && isBlock(value) && old.name === value.name && key !== "classes";
    const change = lays ? difference(old, value) : value;
    if (!lays || Object.keys(change).length) found[key] = change;
  }
  return found;
}

// ---- where one begins, and what one asks for

let base = null; // the spec that a preset stands for
let preset = "";

const defaults = () => Object.fromEntries(blocks.flatMap((block) => {
  const { block: name } = block.dataset;
  if ($(".enable", block)) return [[name, null]];
  const variant = $(".variant", block)?.dataset.default ?? "";
  const values = inputsOf($(`fieldset[data-variant="${variant}"]`, block)).map((input) => [keyOf(input), JSON.parse(input.dataset.default)]);
  if (name === "run") return values;
  return [[name, { ...(variant && { name: variant }), ...Object.fromEntries(values) }]];
}));

async function begin(name, changes = null) {
  preset = name;
  base = name ? (await api(`/v1/presets/${encodeURIComponent(name)}`)).spec : defaults();
  const radio = $(`#presets input[value="${name}"]`);
  radio.checked = true;
  const { parentElement: list } = radio.parentElement;
  list.scrollLeft = radio.parentElement.offsetLeft - (list.clientWidth - radio.parentElement.clientWidth) / 2; // on a phone they lie in a row
  fill(changes ? laid(base, changes) : base);
  changed();
}

function laid(under, over) {
  const merged = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const old = merged[key];
    const lays = isBlock(old) && isBlock(value) && (value.name === undefined || value.name === old.name);
    merged[key] = lays ? laid(old, value) : value;
  }
  return merged;
}

function request() {
  const spec = difference(base, specNow());
  const name = $("#name").value.trim();
  return { ...(preset && { preset }), ...((!preset || Object.keys(spec).length) && { spec }), ...(name && { metadata: { name } }) };
}

// ---- the estimate, and mistakes at their fields

let waiting = 0;
let asking = null;

function changed() {
  const asked = request();
  $("#changes").textContent = JSON.stringify(asked.spec ?? {}, null, 2);
  history.replaceState(null, "", isEqual(asked, { spec: {} }) ? location.pathname : `#${encodeURIComponent(JSON.stringify(asked))}`);
  digest();
  clearTimeout(waiting);
  waiting = setTimeout(estimate, 180);
}

async function estimate() {
  asking?.abort();
  asking = new AbortController();
  try {
    const found = await api("/v1/jobs?dry_run=true", { json: request(), signal: asking.signal });
    const figures = {
      parameters: count(found.parameter_count),
      time: duration(found.estimated_seconds),
      steps: found.steps === null ? "as fit" : count(found.steps),
      memory: bytes(found.memory_bytes),
    };
    for (const [name, text] of Object.entries(figures)) $(`[data-figure="${name}"]`).textContent = text;
    const basis = { measured: "by jobs that ran here", assumed: "assumed: nothing has run here yet", budget: "its budget" }[found.estimate_basis];
    $("#queue").textContent = `Time is ${basis}. ${found.queue_position ? `${count(found.queue_position)} jobs go before it` : "It goes next"}, on the ${found.queue.toUpperCase()}.`;
    mistaken([]);
  } catch (error) {
    if (error.name !== "AbortError") refused(error);
  }
}

function refused(error) {
  if (!(error instanceof Problem)) throw error;
  for (const one of $$("[data-figure]")) one.textContent = "–";
  $("#queue").textContent = error.errors.length ? "" : error.message;
  mistaken(error.errors);
}

function mistaken(errors) {
  for (const one of $$(".mistake", form)) one.remove();
  for (const one of $$("[aria-invalid]", form)) one.removeAttribute("aria-invalid");
  const elsewhere = errors.filter(({ pointer, detail }) => !placed(pointer.replace(/^#(\/spec)?/, ""), detail));
  $("#submit").disabled = errors.length > 0;
  $("#mistakes").replaceChildren(
    ...(errors.length ? [h("p", { class: "note bad" }, errors.length === 1 ? "One field needs another value." : `${errors.length} fields need other values.`)] : []),
    ...elsewhere.map(({ detail }) => h("p", { class: "note bad" }, detail)),
  );
}

/** Say it under the field that the pointer leads to, or to a part of. */
function placed(pointer, detail) {
  const fits = (field) => !field.closest("fieldset[hidden]") && (pointer === field.dataset.pointer || pointer.startsWith(`${field.dataset.pointer}/`));
  const field = $$(".field", form).find(fits);
  if (!field) return false;
  const input = $("input, select", field);
  const said = h("p", { class: "mistake", id: `${input.id}-mistake` }, detail);
  field.append(said);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", said.id);
  field.closest("details").open = true;
  return true;
}

/** The gist of each block beside its heading. */
function digest() {
  const spec = specNow();
  const told = {
    network: () => ["784", ...spec.network.hidden_widths, "10"].join("-"),
    optimizer: () => `${spec.optimizer.name}, ${spec.optimizer.learning_rate}`,
    schedule: () => spec.schedule.name,
    dataset: () => spec.dataset.name,
    run: () => (spec.steps ? `${count(spec.steps)} steps` : spec.budget_seconds ? duration(spec.budget_seconds) : `${spec.epochs ?? 10} epochs`),
  };
  for (const block of blocks) {
    const { block: name } = block.dataset;
    if (spec.dataset.name === "simulated" && name === "network") told.network = () => ["1", ...spec.network.hidden_widths, "1"].join("-");
    $(".digest", block).textContent = told[name]?.() ?? ($(".enable", block) ? (spec[name] ? "in use" : "not used") : "");
  }
}

// ---- listeners

form.addEventListener("input", (event) => {
  const block = event.target.closest(".block");
  if (event.target.matches(".variant, .enable")) arrange(block);
  changed();
});
$("#name").addEventListener("input", changed);
$("#presets").addEventListener("change", (event) => told(() => begin(event.target.value)));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  $("#submit").disabled = true;
  try {
    const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
    const job = await api("/v1/jobs", { json: request(), headers });
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    $("#submit").disabled = false;
    refused(error);
  }
});

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (isBlock(value)) return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
  return { true: "True", false: "False", null: "None" }[String(value)] ?? JSON.stringify(value);
}
const settings = (tree, path = "") => Object.entries(tree).flatMap(([key, value]) =>
  isBlock(value) && Object.keys(value).length ? settings(value, `${path}${key}.`) : [`--set ${quoted(`${path}${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)}`]);
const COPIES = {
  curl: ["The call", (asked) => `curl ${location.origin}/v1/jobs --json ${quoted(JSON.stringify(asked))}`],
  python: ["The program", (asked) => [
    "from service.client import Client", "",
    `with Client(${JSON.stringify(location.origin)}) as client:`,
    `    job = client.jobs.create(${Object.entries(asked).map(([key, value]) => `${key}=${python(value)}`).join(", ")})`,
    "    print(job.wait().metrics)", "",
  ].join("\n")],
  command: ["The command", (asked) => asked.preset && !asked.metadata
    ? ["numeral train", asked.preset, ...settings(asked.spec ?? {}), "--wait"].join(" ")
    : `echo ${quoted(JSON.stringify(asked))} | numeral train - --wait`],
  link: ["The link", () => location.href],
};
document.addEventListener("click", (event) => {
  const [what, text] = COPIES[event.target.dataset?.copy] ?? [];
  if (what) told(() => copy(text(request()), what));
});

/** Begin where the address says: with a request after `#`, with a preset, or with the spec of a job. */
async function start() {
  const query = new URLSearchParams(location.search);
  if (query.has("job")) {
    const job = await api(`/v1/jobs/${encodeURIComponent(query.get("job"))}`);
    $("#name").value = job.metadata.name ?? "";
    history.replaceState(null, "", location.pathname);
    await begin(job.preset ?? "", job.spec);
    return;
  }
  const asked = location.hash.length > 1 ? JSON.parse(decodeURIComponent(location.hash.slice(1))) : {};
  $("#name").value = asked.metadata?.name ?? "";
  await begin(asked.preset ?? query.get("preset") ?? "", asked.spec);
}
told(start).catch(() => told(() => begin("")));
