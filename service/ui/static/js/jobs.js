// Follow, the list: jobs with their state, told anew every two seconds.

import { $, $$, ago, api, chip, count, every, figure, h, nameOf, percent } from "./page.js";

const PAGE = 25;
let states = "";
let pages = 1;
const chosen = new Set();

async function refresh() {
  const query = states.split(",").filter(Boolean).map((state) => `&state=${state}`).join("");
  const jobs = [];
  let after = "";
  let page = null;
  for (let number = 0; number < pages; number += 1) {
    page = await api(`/v1/jobs?limit=${PAGE}${query}${after && `&after=${after}`}`);
    jobs.push(...page.data);
    after = page.next;
    if (!page.has_more) break;
  }
  const focused = document.activeElement?.dataset?.job;
  $("#rows").replaceChildren(...jobs.map(row));
  if (focused) $(`[data-job="${focused}"]`)?.focus();
  $("#table").hidden = !jobs.length;
  $("#empty").hidden = jobs.length > 0;
  $("#more").hidden = !page.has_more;
}

function row(job) {
  const { progress, metrics } = job;
  const isOpen = ["queued", "running", "pausing", "paused", "cancelling"].includes(job.state);
  const share = progress.steps ? progress.step / progress.steps : 0;
  const box = h("input", { type: "checkbox", "aria-label": `Compare ${nameOf(job)}, ${job.id}`, checked: chosen.has(job.id), data: { job: job.id }, onchange: (event) => choose(job.id, event.target.checked) });
  return h("tr", {},
    h("td", {}, h("label", { class: "check" }, box)),
    h("td", { class: "name-cell" }, h("a", { href: `/jobs/${job.id}` }, nameOf(job)), h("span", { class: "quiet small" }, `…${job.id.slice(-4)}`)),
    h("td", {}, chip(job.state)),
    h("td", { class: "n" }, h("strong", {}, percent(metrics.test_accuracy))),
    h("td", { class: "meter-cell" }, isOpen && job.state !== "queued"
      ? [h("progress", { max: 1, value: share, "aria-label": `Progress of ${nameOf(job)}` }), h("span", { class: "quiet small" }, `${count(progress.step)} of ${count(progress.steps)}`)]
      : h("span", { class: "quiet small" }, progress.step ? `${count(progress.step)} steps` : "–")),
    h("td", { class: "n" }, figure(metrics.test_loss ?? metrics.train_loss)),
    h("td", { class: "n" }, count(job.parameter_count)),
    h("td", { class: "n quiet" }, ago(job.created_at)),
  );
}

function choose(id, isChosen) {
  if (isChosen) chosen.add(id);
  else chosen.delete(id);
  const link = $("#compare");
  link.href = `/compare${chosen.size ? `?jobs=${[...chosen].join(",")}` : ""}`;
  link.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
}

for (const button of $$("[data-states]")) {
  button.addEventListener("click", () => {
    states = button.dataset.states;
    pages = 1;
    for (const one of $$("[data-states]")) one.setAttribute("aria-pressed", String(one === button));
    refresh();
  });
}
$("#more").addEventListener("click", () => {
  pages += 1;
  refresh();
});
every(2000, refresh);
