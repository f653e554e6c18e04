// Compare: up to ten runs over each other.

import { $, api, csv, duration, figure, h, metric, nameOf, percent, save, told, toast, words } from "./page.js";
import "./chart.js";

const MOST = 10;
const FIRST = ["test_accuracy", "test_loss", "train_accuracy", "train_loss", "validation_accuracy", "validation_loss"];
const HUES = Array.from({ length: MOST }, (_, index) => `--s${index + 1}`);

let chosen = (new URLSearchParams(location.search).get("jobs") ?? "").split(",").filter(Boolean);
let found = null;
const names = new Map(); // by job id: what it is called here
let sorted = { column: "", isFalling: false };

async function offer() {
  const { data } = await api("/v1/jobs?limit=100");
  data.forEach((job) => names.set(job.id, `${nameOf(job)} …${job.id.slice(-4)}`));
  $("#picks").replaceChildren(...data.filter((job) => Object.keys(job.metrics).length).map((job) =>
    h("label", { class: "check" },
      h("input", { type: "checkbox", value: job.id, checked: chosen.includes(job.id), onchange: (event) => choose(event.target) }),
      h("span", {}, names.get(job.id)), h("span", { class: "quiet small" }, percent(job.metrics.test_accuracy)))));
  if (chosen.length < 2) $("#picker").open = true;
}

function choose(box) {
  if (box.checked && chosen.length === MOST) {
    box.checked = false;
    toast(`Ten jobs at most`);
    return;
  }
  chosen = box.checked ? [...chosen, box.value] : chosen.filter((id) => id !== box.value);
  history.replaceState(null, "", chosen.length ? `?jobs=${chosen.join(",")}` : location.pathname);
  told(compare);
}

async function compare() {
  $("#chosen").textContent = chosen.length ? `${chosen.length} chosen` : "";
  $("#hint").hidden = chosen.length >= 2;
  $("#compared").hidden = chosen.length < 2;
  if (chosen.length < 2) return;
  found = await api(`/v1/compare?jobs=${chosen.join(",")}&max_points=600`);
  for (const job of found.jobs) if (!names.has(job.id)) names.set(job.id, `${nameOf(job)} …${job.id.slice(-4)}`);
  const offered = [...FIRST.filter((name) => found.series[name]), ...Object.keys(found.series).filter((name) => !FIRST.includes(name))];
  const before = $("#metric").value;
  $("#metric").replaceChildren(...offered.map((name) => h("option", { value: name }, words(name))));
  if (offered.includes(before)) $("#metric").value = before;
  draw();
  tabulate();
  differ();
  test();
}

const hueOf = (id) => HUES[chosen.indexOf(id) % MOST];
function mark(id) {
  const element = h("span", { class: "swatch" });
  element.style.background = `var(${hueOf(id)})`;
  return element;
}
const title = (id) => h("span", { class: "run" }, mark(id), h("a", { href: `/jobs/${id}` }, names.get(id)));

function draw() {
  const name = $("#metric").value;
  const chart = $("#chart");
  chart.isShare = name.endsWith("accuracy");
  $("h2", chart).textContent = words(name);
  chart.series = chosen.map((id) => ({ label: names.get(id), colour: hueOf(id), points: found.series[name]?.[id] ?? [] }));
}

function columns() {
  const metrics = FIRST.filter((name) => found.jobs.some((job) => name in job.metrics));
  return [
    ["job", (job) => names.get(job.id), (job) => title(job.id)],
    ["state", (job) => job.state],
    ...metrics.map((name) => [name, (job) => job.metrics[name] ?? null, (job) => metric(name, job.metrics[name])]),
    ["parameters", (job) => job.parameter_count],
    ["seconds", (job) => job.runtime_seconds, (job) => duration(job.runtime_seconds)],
    ["device", (job) => job.device ?? ""],
  ];
}

function tabulate() {
  const all = columns();
  const isNumber = (column) => found.jobs.some((job) => typeof column[1](job) === "number");
  $("#heads").replaceChildren(...all.map((column) => h("th", { class: isNumber(column) ? "n" : "", "aria-sort": sorted.column === column[0] ? (sorted.isFalling ? "descending" : "ascending") : "none" },
    h("button", { type: "button", onclick: () => sort(column[0], isNumber(column)) }, words(column[0])))));
  $("#rows").replaceChildren(...inOrder(all).map((job) => h("tr", {}, all.map((column) => {
    const value = column[1](job);
    const best = bestOf(column, value);
    return h("td", { class: isNumber(column) ? "n" : "" }, best ? h("strong", {}, shown(column, job)) : shown(column, job));
  }))));
}
const shown = (column, job) => column[2]?.(job) ?? (typeof column[1](job) === "number" ? Intl.NumberFormat("en").format(column[1](job)) : column[1](job));

function bestOf([name], value) {
  if (value === null || !FIRST.includes(name)) return false;
  const values = found.jobs.map((job) => job.metrics[name]).filter((one) => one !== undefined);
  return value === (name.endsWith("accuracy") ? Math.max(...values) : Math.min(...values));
}

function inOrder(all) {
  const column = all.find(([name]) => name === sorted.column);
  if (!column) return found.jobs;
  const direction = sorted.isFalling ? -1 : 1;
  return [...found.jobs].sort((a, b) => {
    const [x, y] = [column[1](a), column[1](b)];
    return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
  });
}

function sort(column, isNumber) {
  sorted = { column, isFalling: sorted.column === column ? !sorted.isFalling : isNumber };
  tabulate();
  $(`#heads [aria-sort$="ending"] button`)?.focus();
}

function differ() {
  $("#same").hidden = found.differences.length > 0;
  $("#spec-heads").replaceChildren(h("th", {}, "Field"), ...chosen.map((id) => h("th", {}, h("span", { class: "run" }, mark(id), names.get(id)))));
  $("#differences").replaceChildren(...found.differences.map(({ pointer, values }) =>
    h("tr", {}, h("td", { class: "mono" }, pointer.slice(2).replaceAll("/", ".")), chosen.map((id) => h("td", { class: "mono" }, values[id] === null ? "–" : typeof values[id] === "string" ? values[id] : JSON.stringify(values[id]))))));
}

function test() {
  $("#tests-sheet").hidden = !found.tests.length && !found.notes.length;
  $("#tests").replaceChildren(...found.tests.map((one) => {
    const isTelling = one.p_value < 0.05;
    const better = one.difference > 0 ? one.a : one.b;
    return h("tr", {},
      h("td", {}, h("div", { class: "stack tight" }, title(one.a), title(one.b))),
      h("td", { class: "n" }, points(one.difference)), h("td", { class: "n" }, `${points(one.interval[0])} to ${points(one.interval[1])}`),
      h("td", { class: "n" }, `${one.only_a_right} : ${one.only_b_right}`), h("td", { class: "n" }, one.p_value < 1e-4 ? "< 0.0001" : figure(one.p_value)),
      h("td", {}, isTelling ? h("span", { class: "run" }, mark(better), "is better") : h("span", { class: "quiet" }, "cannot be told apart")));
  }));
  $("#notes").replaceChildren(...found.notes.map((note) => h("li", {}, note)));
}
const points = (share) => `${share > 0 ? "+" : share < 0 ? "−" : ""}${(100 * Math.abs(share)).toFixed(2)} %`;

$("#metric").addEventListener("change", draw);
$("#csv").addEventListener("click", () => {
  const all = columns();
  const differing = found.differences.map(({ pointer }) => pointer.slice(2).replaceAll("/", "."));
  save("comparison.csv", csv([
    ["id", ...all.map(([name]) => name), ...differing],
    ...inOrder(all).map((job) => [job.id, ...all.map(([, value]) => value(job)), ...found.differences.map(({ values }) => (typeof values[job.id] === "object" ? JSON.stringify(values[job.id]) : values[job.id]))]),
  ]));
});
told(async () => {
  await offer();
  await compare();
});
