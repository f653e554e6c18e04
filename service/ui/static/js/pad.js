// Where a digit is drawn, and the ten bars that it is read as.

import { colour, h, onColours, percent } from "./page.js";

const SIDE = 280; // pixels of what is sent, ten for each of the network's
const BRUSH = 1 / 12; // of the side, which makes strokes as thick as MNIST's
const HINT = "Draw here, with a finger, a pen or the mouse";

const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
};

/** Draw strokes, lists of points from 0 to 1, into a square of `side` pixels. */
function ink(context, strokes, side) {
  context.lineWidth = BRUSH * side;
  context.lineCap = context.lineJoin = "round";
  for (const points of strokes) {
    context.beginPath();
    const at = (index) => [points[index][0] * side, points[index][1] * side];
    context.moveTo(...at(0));
    if (points.length === 1) context.lineTo(at(0)[0] + 0.01, at(0)[1]);
    for (let index = 1; index < points.length - 1; index += 1) {
      const [x, y] = at(index);
      const [nextX, nextY] = at(index + 1);
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    if (points.length > 1) context.lineTo(...at(points.length - 1));
    context.stroke();
  }
}

/** A sheet of squared paper. Fires `ink` while it is drawn on and when that changes otherwise. */
export class DigitPad extends HTMLElement {
  strokes = [];
  #pointer = null;

  connectedCallback() {
    this.canvas = h("canvas", { role: "img", "aria-label": "Drawing area. Without a pointer, choose a picture of a digit below instead." });
    this.hint = h("div", { class: "hint" }, h("span", {}, HINT));
    this.undoing = h("button", { type: "button", onclick: () => this.undo() }, icon("undo"), "Undo");
    this.clearing = h("button", { type: "button", onclick: () => this.clear() }, icon("clear"), "Clear");
    this.paper = h("div", { class: "paper" }, this.canvas, this.hint);
    this.append(this.paper, h("div", { class: "row" }, this.undoing, this.clearing));
    this.sent = new OffscreenCanvas(SIDE, SIDE);
    this.paper.addEventListener("pointerdown", (event) => this.#down(event));
    this.paper.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) this.paper.addEventListener(name, (event) => this.#up(event));
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select, textarea") || event.altKey || document.querySelector("dialog[open]")) return;
      if ((event.ctrlKey || event.metaKey) && event.key === "z") this.undo();
      else if (event.key === "Escape") this.clear();
    });
    new ResizeObserver(() => this.#draw()).observe(this.paper);
    onColours(() => this.#draw());
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  undo() {
    if (this.strokes.pop()) this.#changed(true);
  }

  clear() {
    this.strokes = [];
    this.#changed(true);
  }

  /** A PNG of what is drawn, white on black whatever the colours here. */
  async picture() {
    const context = this.sent.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.strokeStyle = "#fff";
    ink(context, this.strokes, SIDE);
    return this.sent.convertToBlob({ type: "image/png" });
  }

  #down(event) {
    if (this.#pointer !== null || event.button !== 0) return;
    event.preventDefault();
    this.paper.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.strokes.push([this.#at(event)]);
    this.#changed(false);
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.strokes.at(-1).push(...(events.length ? events : [event]).map((one) => this.#at(one)));
    this.#changed(false);
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#changed(true);
  }

  #at(event) {
    const box = this.paper.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #changed(isComplete) {
    this.#draw();
    this.dispatchEvent(new CustomEvent("ink", { detail: { isComplete } }));
  }

  #draw() {
    const side = Math.round(this.paper.clientWidth * devicePixelRatio);
    if (!side) return;
    this.canvas.width = this.canvas.height = side;
    const context = this.canvas.getContext("2d");
    context.strokeStyle = colour("--ink");
    ink(context, this.strokes, side);
    this.hint.hidden = !this.isEmpty;
    this.undoing.disabled = this.clearing.disabled = this.isEmpty;
  }
}

/** Ten probabilities; a table to who cannot see them. */
export class DigitBars extends HTMLElement {
  connectedCallback() {
    this.setAttribute("role", "list");
    this.setAttribute("aria-label", "Probability of each digit");
    this.bars = Array.from({ length: 10 }, (_, digit) =>
      h("div", { class: "bar", role: "listitem" }, h("b", {}, String(digit)), h("div", { class: "track" }, h("div", { class: "fill" })), h("i", {}, "")),
    );
    this.append(...this.bars);
    this.show(null);
  }

  /** Null: nothing is read. */
  show(probabilities) {
    const top = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
    this.bars.forEach((bar, digit) => {
      const share = probabilities?.[digit] ?? 0;
      bar.classList.toggle("likeliest", digit === top);
      bar.style.setProperty("--p", share.toFixed(4));
      bar.lastChild.textContent = probabilities ? percent(share, 1) : "";
      bar.setAttribute("aria-label", probabilities ? `${digit}: ${percent(share, 1)}` : `${digit}: not read yet`);
    });
  }
}

customElements.define("digit-pad", DigitPad);
customElements.define("digit-bars", DigitBars);
