// Data: what was kept of readings, labelled by a choice; and the datasets that are made of it, or uploaded.

import { $, $$, Problem, ago, all, api, count, h, percent, told, toast, words } from "./page.js";

const A_PAGE = 24;

// ---- kept images

let wanted = ""; // "true" and "false": with a label, without one
let after = "";

async function refresh() {
  after = "";
  $("#kept").replaceChildren();
  await more();
}

async function more() {
  const query = new URLSearchParams({ limit: A_PAGE, ...(wanted && { labelled: wanted }), ...(after && { after }) });
  const page = await api(`/v1/feedback?${query}`);
  $("#kept").append(...page.data.map(card));
  after = page.next ?? "";
  $("#more").hidden = !page.has_more;
  $("#none").hidden = page.kept > 0;
  tally(page.kept, page.labelled);
}

let kept = 0;
let labelled = 0;
function tally(nowKept, nowLabelled) {
  [kept, labelled] = [nowKept, nowLabelled];
  $("#counts").textContent = `${count(kept)} kept, ${count(labelled)} of them labelled`;
  $("#collect button").disabled = labelled === 0;
}

function card(sample) {
  const option = (value, text) => h("option", { value, selected: String(sample.label ?? "") === value }, text);
  const choice = h("select", { "aria-label": "What it is", onchange: (event) => told(() => say(sample, event.target, element)) },
    option("", "it is …"), ...Array.from({ length: 10 }, (_, digit) => option(String(digit), `it is ${digit}`)));
  const gone = h("button", { type: "button", class: "icon", "aria-label": "Delete this image", onclick: () => told(() => forget(sample, element)) }, cross());
  const element = h("li", { class: sample.label === null ? "" : "labelled" },
    h("img", { src: sample.image, alt: `A digit that was read as ${sample.predicted}`, width: 112, height: 112 }),
    h("span", { class: "small quiet" }, `read as ${sample.predicted}, ${percent(sample.confidence, 0)}`),
    h("div", { class: "row" }, choice, gone));
  return element;
}

function cross() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#i-clear");
  svg.append(use);
  return svg;
}

async function say(sample, choice, element) {
  const label = choice.value === "" ? null : Number(choice.value);
  const had = sample.label !== null;
  Object.assign(sample, await api(`/v1/feedback/${sample.id}/label`, { method: "PUT", json: { label } }));
  element.classList.toggle("labelled", label !== null);
  tally(kept, labelled + (label !== null) - had);
}

async function forget(sample, element) {
  await api(`/v1/feedback/${sample.id}`, { method: "DELETE" });
  element.remove();
  tally(kept - 1, labelled - (sample.label !== null));
  $("#none").hidden = kept > 0;
}

$("#more").addEventListener("click", () => told(more));
for (const one of $$("[data-show]")) {
  one.addEventListener("click", () => {
    wanted = one.dataset.show;
    for (const other of $$("[data-show]")) other.setAttribute("aria-pressed", String(other === one));
    told(refresh);
  });
}
$("#collect").addEventListener("submit", async (event) => {
  event.preventDefault();
  const made = await told(() => api("/v1/feedback/dataset", { json: { name: $("#called").value.trim() } }));
  if (made) toast(`${made.name}, version ${made.version}: ${count(made.train_examples)} images to learn from`);
  await told(list);
});

// ---- datasets

async function list() {
  const found = await all("/v1/datasets");
  $("#datasets").replaceChildren(...found.filter((one) => one.id).map(row), ...found.filter((one) => !one.id).map(row));
}

/** Train on MNIST and this, or on the dataset itself if it comes with the service. */
const trained = (one) => `/train#${encodeURIComponent(JSON.stringify({ preset: "slp-200", spec: { dataset: one.id ? { uploads: [one.id] } : { name: one.name } } }))}`;

function row(one) {
  const isFitting = one.task === "classification";
  return h("tr", {},
    h("td", { class: "name-cell" }, h("strong", {}, one.name)), h("td", { class: "n" }, one.version ?? "–"), h("td", { class: "made-of" }, one.source ? words(one.source) : one.title),
    h("td", { class: "n" }, count(one.train_examples)), h("td", { class: "n" }, count(one.test_examples)), h("td", { class: "n quiet" }, one.created_at ? ago(one.created_at) : "–"),
    h("td", {}, h("div", { class: "row tight" },
      isFitting && h("a", { class: "button", href: trained(one), "aria-label": one.id ? `Train on MNIST and ${one.name}, version ${one.version}` : `Train on ${one.name}` }, one.id ? "Train on MNIST and it" : "Train on it"),
      one.id && h("button", { type: "button", onclick: () => look(one) }, "Look"),
      one.id && h("button", { type: "button", class: "danger", onclick: () => told(() => remove(one)) }, "Delete"))));
}

function look(one) {
  $("#look-title").textContent = `${one.name}, version ${one.version}`;
  $("#sample").src = `/v1/datasets/${one.id}/samples.png`;
  $("#look").showModal();
}
$("#look").addEventListener("click", (event) => event.target.dataset.do === "close" && $("#look").close());

async function remove(one) {
  await api(`/v1/datasets/${one.id}`, { method: "DELETE" });
  toast(`${one.name}, version ${one.version}, is deleted`);
  await list();
}

// ---- uploads

const file = $("#file");
$("#choose").addEventListener("click", () => file.click());
file.addEventListener("change", () => {
  const [chosen] = file.files;
  $("#file-name").textContent = chosen?.name ?? "no file chosen";
  $("#send").disabled = !chosen;
  $("#mistakes").replaceChildren();
});
$("#upload").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("#send").disabled = true;
  $("#mistakes").replaceChildren();
  try {
    const query = new URLSearchParams({ name: $("#named").value.trim() });
    const made = await api(`/v1/datasets?${query}`, { method: "POST", body: file.files[0], headers: { "Content-Type": "application/zip" } });
    toast(`${made.name}, version ${made.version}: ${count(made.train_examples)} images to train on, ${count(made.test_examples)} to test with`);
    file.value = "";
    $("#file-name").textContent = "no file chosen";
    await list();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    $("#send").disabled = false;
    const details = error.errors.length > 1 ? error.errors.map(({ pointer, detail }) => `${pointer.replace(/^#\//, "").replaceAll("~1", "/")}: ${detail}`) : [];
    $("#mistakes").replaceChildren(...[error.message, ...details].map((text) => h("p", { class: "note bad" }, text)));
  }
});

told(refresh);
told(list);
