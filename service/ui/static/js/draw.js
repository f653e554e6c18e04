// Draw: a digit read while it is drawn, and pictures read by the dozen.

import { $, Problem, all, api, csv, h, percent, save, show, told, toast, words } from "./page.js";
import "./pad.js";

const pad = $("#pad");
const model = $("#model");
const MEANING = {
  blank: "nothing is written",
  low_contrast: "ink and paper are nearly alike",
  several_digits: "several digits: it reads one",
  touches_edge: "ink touches the edge",
  not_a_digit: "this does not look like a digit",
};

const readPath = (query) => `/v1/models/${encodeURIComponent(model.value)}/predict?include=image${query}`;

// ---- what is drawn: one request at a time, and the newest drawing next

let isReading = false;
let isStale = false;
let ended = null; // when the last stroke ended, until its answer is shown

pad.addEventListener("ink", (event) => {
  if (event.detail.isComplete) ended = performance.now();
  about(pad.isEmpty ? null : () => pad.picture());
  read();
});
model.addEventListener("change", () => !pad.isEmpty && read());

async function read() {
  if (isReading) {
    isStale = true;
    return;
  }
  if (pad.isEmpty) {
    clear();
    return;
  }
  isReading = true;
  do {
    isStale = false;
    const measured = ended;
    try {
      const body = await pad.picture();
      const answer = await api(readPath(""), { method: "POST", body, headers: { "Content-Type": "image/png" } });
      if (!pad.isEmpty) await answered(answer.predictions[0], "your drawing");
      if (measured !== null && measured === ended) {
        performance.measure("stroke-to-answer", { start: measured, end: performance.now() });
        ended = null;
        speak(answer.predictions[0]);
      }
    } catch (error) {
      refused(error);
    }
  } while (isStale && !pad.isEmpty);
  isReading = false;
  if (pad.isEmpty) clear();
}

async function answered(prediction, what) {
  const { label, confidence, probabilities, warnings, image } = prediction;
  const order = probabilities.map((_, digit) => digit).sort((a, b) => probabilities[b] - probabilities[a]);
  const isBlank = warnings.includes("blank");
  $("#numeral").textContent = isBlank ? "–" : label;
  $("#numeral").classList.toggle("none", isBlank || warnings.includes("not_a_digit"));
  $("#share").textContent = isBlank ? "Nothing to read" : percent(confidence, 1);
  $("#second").textContent = isBlank ? "" : `next likely: ${order[1]}, ${percent(probabilities[order[1]], 1)}`;
  $("#warnings").replaceChildren(...warnings.map((name) => h("span", { class: "tag warn" }, MEANING[name] ?? words(name))));
  $("#bars").show(probabilities);
  await show($("#seen"), image, `28 by 28 pixels that the network saw of ${what}`);
}

let speaking = 0;
function speak({ label, confidence, warnings }) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    $("#spoken").textContent = `Read as ${label}, ${percent(confidence, 0)}. ${warnings.map((name) => MEANING[name] ?? words(name)).join(", ")}`;
  }, 400);
}

function clear() {
  ended = null;
  $("#numeral").textContent = "–";
  $("#numeral").classList.add("none");
  $("#share").textContent = "Nothing drawn yet";
  $("#second").textContent = "The first stroke is enough.";
  $("#warnings").replaceChildren();
  $("#bars").show(null);
  const seen = $("#seen");
  seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
}

function refused(error) {
  $("#share").textContent = error.code === "no_model" ? "No model yet" : "Not read";
  $("#second").replaceChildren(
    ...(error.code === "no_model" ? ["Train one first: ", h("a", { href: "/train" }, "the lecture's takes seconds"), "."] : [error.message]),
  );
  if (!(error instanceof Problem)) throw error;
}

// ---- what it really is: kept to learn from, by a click

let shown = null; // makes the picture that the answer is about
let keptAs = null; // under which id it is kept

/** The answer is about another picture from now on. */
function about(picture) {
  const isPlain = keptAs === null && (shown === null) === (picture === null);
  shown = picture;
  keptAs = null;
  if (isPlain) return; // a stroke comes in many pieces
  $("#kept").replaceChildren();
  offerTruth();
}

const offerTruth = (chosen = null) =>
  $("#truth").replaceChildren(
    ...Array.from({ length: 10 }, (_, digit) =>
      h("button", { type: "button", disabled: shown === null, "aria-pressed": String(digit === chosen), onclick: () => told(() => correct(digit)) }, String(digit)),
    ),
  );

let saving = Promise.resolve(); // clicks follow one another, so that a picture is kept once
function correct(digit) {
  const mine = shown;
  saving = saving.catch(() => {}).then(() => keep(digit, mine));
  return saving;
}

async function keep(digit, mine) {
  if (mine !== shown) return; // it has been drawn on since the click
  let id = keptAs;
  if (id === null) {
    const body = await mine();
    const answer = await api(readPath("&store=true"), { method: "POST", body, headers: { "Content-Type": body.type } });
    id = answer.predictions[0].feedback_id;
    if (mine === shown) keptAs = id;
  }
  await api(`/v1/feedback/${id}/label`, { method: "PUT", json: { label: digit } });
  if (mine !== shown) return;
  offerTruth(digit);
  $("#truth").children[digit].focus();
  $("#kept").replaceChildren(`Kept as ${digit}, to learn from. `, h("button", { type: "button", class: "link", onclick: () => told(() => forget(id)) }, "Delete it"));
}

async function forget(id) {
  await api(`/v1/feedback/${id}`, { method: "DELETE" });
  if (keptAs === id) about(shown);
  toast("It is not kept any more");
}
offerTruth();

// ---- pictures

const rows = [];

async function readFiles(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/"));
  if (!pictures.length) {
    toast("There is no picture in it");
    return;
  }
  const form = new FormData();
  for (const file of pictures) form.append("files", file, file.name || "pasted.png");
  const answer = await told(() => api(readPath("&on_error=item"), { method: "POST", body: form }));
  if (!answer) return;
  answer.predictions.forEach((prediction, index) => tabled(pictures[index], prediction));
  $("#results").hidden = false;
  const [first] = answer.predictions;
  if (pictures.length === 1 && !first.error) {
    await answered(first, pictures[0].name);
    about(async () => pictures[0]);
    speak(first);
  } else {
    $("#spoken").textContent = `${pictures.length} pictures are read; they are in the table.`;
  }
}

function tabled(file, prediction) {
  const name = file.name || "pasted.png";
  const address = URL.createObjectURL(file);
  const seen = h("canvas", { class: "pixels", role: "img" });
  const { error } = prediction;
  rows.push({ name, prediction });
  if (prediction.image) show(seen, prediction.image, `What the network saw of ${name}`);
  const told = error ? [h("span", { class: "tag warn" }, error.detail)] : prediction.warnings.map((one) => h("span", { class: "tag warn" }, MEANING[one] ?? words(one)));
  $("#rows").prepend(
    h("tr", {},
      h("td", {}, h("img", { src: address, alt: "", onload: () => URL.revokeObjectURL(address) })),
      h("td", {}, error ? "–" : seen),
      h("td", {}, name),
      h("td", { class: "n" }, h("strong", {}, error ? "–" : String(prediction.label))),
      h("td", { class: "n" }, error ? "–" : percent(prediction.confidence, 1)),
      h("td", {}, h("div", { class: "row" }, told)),
    ),
  );
}

$("#csv").addEventListener("click", () => {
  const digits = Array.from({ length: 10 }, (_, digit) => digit);
  save("digits.csv", csv([
    ["file", "label", "confidence", ...digits.map((digit) => `p${digit}`), "warnings"],
    ...rows.map(({ name, prediction: { error, label, confidence, probabilities, warnings } }) =>
      error ? [name, "", "", ...digits.map(() => ""), error.detail] : [name, label, confidence, ...probabilities, warnings.join(" ")]),
  ]));
});
$("#forget").addEventListener("click", () => {
  rows.length = 0;
  $("#rows").replaceChildren();
  $("#results").hidden = true;
});

const files = $("#files");
$("#choose").addEventListener("click", () => files.click());
files.addEventListener("change", async () => {
  await readFiles(files.files);
  files.value = "";
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) readFiles(event.clipboardData.files);
});
const drop = $("#drop");
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => !event.relatedTarget && drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  readFiles(event.dataTransfer.files);
});

// ---- the camera: a phone's own where there is no better way

const viewfinder = $("#viewfinder");
const video = $("video", viewfinder);
$("#camera").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    viewfinder.showModal();
  } catch {
    files.setAttribute("capture", "environment");
    files.click();
    files.removeAttribute("capture");
  }
});
viewfinder.addEventListener("close", () => video.srcObject?.getTracks().forEach((track) => track.stop()));
viewfinder.addEventListener("click", async (event) => {
  const wanted = event.target.dataset.do;
  if (wanted === "shoot") {
    const taken = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    taken.getContext("2d").drawImage(video, 0, 0);
    const blob = await taken.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    await readFiles([new File([blob], `camera-${rows.length + 1}.jpg`, { type: "image/jpeg" })]);
  }
  if (wanted) viewfinder.close();
});

// ---- which model reads

async function offerModels() {
  const [aliases, versions] = await Promise.all([api("/v1/aliases"), all("/v1/models", 100)]);
  const readers = versions.filter((one) => one.task === "classification");
  const option = (value, text) => h("option", { value }, text);
  const chosen = new URLSearchParams(location.search).get("model");
  model.replaceChildren(
    option("latest", readers.length ? `latest (version ${readers[0].version})` : "latest"),
    ...aliases.data.map((alias) => option(alias.name, alias.name)),
    ...readers.map((one) => option(one.id, `version ${one.version}${one.preset ? `, ${one.preset}` : ""}`)),
  );
  if ([...model.options].some((one) => one.value === chosen)) model.value = chosen;
  if (!readers.length) refused(new Problem(409, { code: "no_model" }));
}
told(offerModels);
