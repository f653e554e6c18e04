// What every view uses: elements, requests, figures, and the choice of colours.

/** An element with properties, listeners (`onclick`) and children; text stays text. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An answer of the API that is an error (RFC 9457), or none because the network is away. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the service answered ${status}`);
    Object.assign(this, { status, code: body.code ?? "", errors: body.errors ?? [], gate: body.gate ?? null });
  }
}

/** JSON of the API. `json` is sent as it is, `body` as bytes or a form. */
export async function api(path, { json, ...options } = {}) {
  if (json !== undefined) {
    options = { method: "POST", ...options, body: JSON.stringify(json), headers: { "Content-Type": "application/json", ...options.headers } };
  }
  let response = await asked(path, options);
  if (response.status === 401) {
    await signedIn();
    response = await asked(path, options);
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? null : response.json();
}

async function asked(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The service cannot be reached.", code: "unreachable" });
  }
}

let signing = null; // one dialog for all that wait

/** Once a person has given an API key that is good, which a cookie keeps. */
function signedIn() {
  signing ??= new Promise((resolve) => {
    const field = h("input", { type: "password", name: "key", autocomplete: "current-password", required: true, placeholder: "num_…" });
    const wrong = h("p", { class: "wrong", role: "alert" });
    const submit = async (event) => {
      event.preventDefault();
      const headers = { Authorization: `Bearer ${field.value.trim()}` };
      const answer = await asked("/v1/session", { method: "POST", headers }).catch(() => null);
      if (answer?.ok) {
        dialog.close();
        dialog.remove();
        signing = null;
        resolve();
      } else {
        wrong.textContent = answer ? "This key is not good here." : "The service cannot be reached.";
        field.select();
      }
    };
    const dialog = h(
      "dialog",
      { id: "sign-in", "aria-labelledby": "sign-in-title", oncancel: (event) => event.preventDefault() },
      h("h2", { id: "sign-in-title" }, "An API key, please"),
      h("p", {}, "This service asks for one. It is kept until the browser is closed."),
      h("form", { onsubmit: submit }, h("label", {}, "API key", field), wrong, h("button", { type: "submit", class: "primary" }, "Go on")),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
  return signing;
}

/** Every entry of a list, page by page, up to `most`. */
export async function all(path, most = 500) {
  const found = [];
  let after = "";
  do {
    const page = await api(`${path}${path.includes("?") ? "&" : "?"}limit=100${after && `&after=${after}`}`);
    found.push(...page.data);
    after = page.has_more ? page.next : "";
  } while (after && found.length < most);
  return found;
}

export function toast(text) {
  if ([...$("#toasts").children].some((one) => one.textContent === text)) return; // it stands there already
  const element = h("div", { class: "toast" }, text);
  $("#toasts").append(element);
  setTimeout(() => element.remove(), 6000);
}

/** Do it, and tell what went wrong. */
export async function told(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message);
    if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
    return undefined;
  }
}

const number = new Intl.NumberFormat("en");
export const count = (value) => (value === null || value === undefined ? "–" : number.format(value));
/** As a percentage; what is nearly nothing or nearly everything is told as that. */
export function percent(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const least = 10 ** -digits;
  if (value > 0 && 100 * value < least / 2) return `< ${least} %`;
  if (value < 1 && 100 * value > 100 - least / 2) return `> ${100 - least} %`;
  return `${(100 * value).toFixed(digits)} %`;
}
export const figure = (value) =>
  value === null || value === undefined ? "–" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
/** A value of a metric, told by its name. */
export const metric = (name, value) => (name.endsWith("accuracy") ? percent(value) : figure(value));
export const bytes = (value) => {
  const power = value > 0 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  return `${(value / 1024 ** power).toFixed(power && value / 1024 ** power < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
};
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}
export function ago(time) {
  const seconds = (Date.now() - new Date(time)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}
export const moment = (time) => (time ? new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "–");
export const words = (name) => name.replaceAll("_", " ");
export const short = (id) => `${id.slice(0, id.indexOf("_") + 1)}…${id.slice(-6)}`;
/** What a person calls a job. */
export const nameOf = (job) => job.metadata?.name || job.preset || (job.spec ? [...job.spec.network.hidden_widths, job.spec.optimizer.name].join(" · ") : short(job.id));
export const chip = (state) => h("span", { class: `chip ${state}` }, state);

/** Draw grey levels (0 to 255) of a square into a canvas. */
export function paint(canvas, pixels, side = 28) {
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  pixels.forEach((value, index) => image.data.set([value, value, value, 255], 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
export const pixels = (values, label) => paint(h("canvas", { class: "pixels", role: "img", "aria-label": label }), values);

/** Draw a picture's address (a data: URL) into a canvas, pixel by pixel. */
export async function show(canvas, address, label) {
  const image = new Image();
  image.src = address;
  await image.decode();
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.setAttribute("aria-label", label);
}

export function save(name, text, type = "text/csv") {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
/** RFC 4180. A cell that a spreadsheet would take for a formula is quoted as text. */
export function csv(rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

export async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  toast(`${what} is on the clipboard`);
}

/** Call again and again while the page is seen; the next call waits for the last. */
export function every(milliseconds, work) {
  let timer = 0;
  const run = async () => {
    clearTimeout(timer);
    if (!document.hidden) await told(work);
    timer = setTimeout(run, milliseconds);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && run());
  return run();
}

/** The colour that a custom property stands for just now. */
export function colour(name) {
  const probe = h("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Be told when the colours change. */
export function onColours(work) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", work);
  document.addEventListener("colours", work);
}

const THEMES = { "": "as the system has them", light: "light", dark: "dark" };
const button = $("#theme");
const labelled = () => button.setAttribute("aria-label", `Colours: ${THEMES[document.documentElement.dataset.theme ?? ""]}`);
button.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("theme", next);
  labelled();
  toast(button.getAttribute("aria-label"));
  document.dispatchEvent(new Event("colours"));
});
labelled();
