// Curves: zoom by dragging, a logarithmic axis, smoothing, and the same numbers as a table.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { colour, figure, h, onColours, percent } from "./page.js";

const MOST_ROWS = 60; // of the table
const FAINT = 0.22; // of what was smoothed

/** Exponential moving average of what is there, without the bias of its start. */
function smoothed(values, share) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}

const faded = (rgb, share) => rgb.replace(/^rgb\((.*)\)$/, `rgba($1, ${share})`);

/**
 * `series` are {label, colour, points: [[step, epoch, value], ...], dash}; `colour` is a custom property. Its settings
 * are kept over a change of the data: it is drawn at most once a frame.
 */
export class RunChart extends HTMLElement {
  #series = [];
  #axis = "step";
  #isLog = false;
  #smoothing = 0;
  #hidden = new Set();
  #plot = null;
  #zoom = null;
  #isWaiting = false;

  connectedCallback() {
    const heading = this.getAttribute("heading");
    this.isShare = this.hasAttribute("share");
    this.values = h("div", { class: "legend" });
    this.place = h("div", { class: "plot", role: "img", "aria-label": heading });
    this.table = h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${heading} as a table` });
    this.details = h("details", { ontoggle: () => this.#tabulate() }, h("summary", { class: "small" }, "As a table"), this.table);
    this.reset = h("button", { type: "button", class: "link", hidden: true, onclick: () => this.#whole() }, "Whole range");
    const slider = h("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: "0", "aria-label": `Smoothing of ${heading}`, oninput: (event) => this.#set("smoothing", Number(event.target.value)) });
    this.append(
      h("div", { class: "row" }, h("h2", { class: "grow" }, heading), this.reset,
        this.isShare ? null : h("label", { class: "check small" }, h("input", { type: "checkbox", onchange: (event) => this.#set("log", event.target.checked) }), "log"),
        h("label", { class: "check small smoothing" }, "smooth", slider),
        h("select", { class: "slim small", "aria-label": `Axis of ${heading}`, onchange: (event) => this.#set("axis", event.target.value) }, h("option", {}, "step"), h("option", {}, "epoch"))),
      this.values, this.place, this.details,
    );
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.place);
    onColours(() => this.#later());
  }

  set series(series) {
    this.#series = series;
    this.#later();
  }

  get series() {
    return this.#series;
  }

  #set(name, value) {
    if (name === "log") this.#isLog = value;
    if (name === "smoothing") this.#smoothing = value;
    if (name === "axis") {
      this.#axis = value;
      this.#zoom = null;
    }
    this.#later();
  }

  #later() {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    requestAnimationFrame(() => {
      this.#isWaiting = false;
      this.#draw();
      this.#tabulate();
    });
  }

  #size() {
    return { width: Math.max(200, Math.floor(this.place.clientWidth)), height: innerWidth < 760 ? 240 : 300 };
  }

  #shown() {
    return this.#series.filter((one) => one.points.length);
  }

  #data() {
    const column = this.#axis === "step" ? 0 : 1;
    const sets = this.#shown().map(({ points }) => [points.map((point) => point[column]), points.map((point) => point[2])]);
    return sets.length ? uPlot.join(sets) : [[]];
  }

  #draw() {
    const shown = this.#shown();
    const joined = this.#data();
    const [x, ...ys] = joined;
    const positive = this.#isLog ? ys.map((values) => values.map((value) => (value > 0 ? value : null))) : ys;
    const isSmooth = this.#smoothing > 0;
    const data = isSmooth ? [x, ...positive, ...positive.map((values) => smoothed(values, this.#smoothing))] : [x, ...positive];
    const line = (one, isFaint) => {
      const stroke = colour(one.colour);
      return {
        label: one.label, spanGaps: true, stroke: isFaint ? faded(stroke, FAINT) : stroke, width: isFaint ? 1 : 2, dash: one.dash,
        show: !this.#hidden.has(one.label), points: { show: one.points.length < 2, size: 6, fill: stroke },
      };
    };
    const series = [{}, ...shown.map((one) => line(one, isSmooth)), ...(isSmooth ? shown.map((one) => line(one, false)) : [])];
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${getComputedStyle(document.body).fontFamily}` };
    const told = (values) => values.map((value) => (value === null ? "" : this.#told(value, 1)));
    const zoom = this.#zoom;
    this.#plot?.destroy();
    this.#plot = new uPlot({
      ...this.#size(),
      series,
      legend: { show: false },
      cursor: { drag: { x: true, y: false, setScale: true }, points: { size: 7 } },
      scales: { x: { time: false, ...(zoom && { min: zoom[0], max: zoom[1] }) }, y: { distr: this.#isLog ? 3 : 1 } },
      axes: [{ ...axis, size: 32, values: (_, values) => values.map((value) => (value === null ? "" : Intl.NumberFormat("en", { notation: "compact" }).format(value))) }, { ...axis, size: 58, values: (_, values) => told(values) }],
      hooks: {
        setCursor: [(plot) => this.#legend(plot.cursor.idx)],
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          this.#zoom = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
          this.reset.hidden = false;
        }],
      },
    }, data, this.place);
    this.#plot.over.addEventListener("dblclick", () => this.#whole());
    this.drawn = joined;
    this.#legend(null);
  }

  #whole() {
    this.#zoom = null;
    this.reset.hidden = true;
    this.#later();
  }

  #told(value, digits = 2) {
    return this.isShare ? percent(value, digits) : figure(value);
  }

  /** Names and values: at the cursor, or the newest. */
  #legend(index) {
    const [x, ...ys] = this.drawn;
    const shown = this.#shown();
    if (this.values.childElementCount !== shown.length + 1) {
      this.values.replaceChildren(
        ...shown.map((one) => {
          const mark = h("span", { class: "swatch" });
          mark.style.background = `var(${one.colour})`;
          return h("button", { type: "button", class: "legend-one", "aria-pressed": String(!this.#hidden.has(one.label)), onclick: (event) => this.#toggle(one.label, event.currentTarget) }, mark, h("span", {}, one.label), h("b", {}));
        }),
        h("span", { class: "quiet small at" }),
      );
    }
    const newest = (values) => values.findLast((value) => value !== null && value !== undefined);
    shown.forEach((_, place) => {
      const value = index === null || index === undefined ? newest(ys[place]) : ys[place][index];
      this.values.children[place].lastChild.textContent = value === null || value === undefined ? "" : this.#told(value);
    });
    this.values.lastChild.textContent = index === null || index === undefined || x[index] === undefined ? "" : `${this.#axis} ${figure(x[index])}`;
  }

  #toggle(label, button) {
    if (!this.#hidden.delete(label)) this.#hidden.add(label);
    button.setAttribute("aria-pressed", String(!this.#hidden.has(label)));
    this.#later();
  }

  #tabulate() {
    if (!this.details.open || !this.drawn) return;
    const [x, ...ys] = this.drawn;
    const step = Math.max(1, Math.ceil(x.length / MOST_ROWS));
    const rows = x.map((_, index) => index).filter((index) => index % step === 0 || index === x.length - 1);
    this.table.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, h("th", { class: "n" }, this.#axis), this.#shown().map((one) => h("th", { class: "n" }, one.label)))),
      h("tbody", {}, rows.map((index) => h("tr", {}, h("td", { class: "n" }, figure(x[index])), ys.map((values) => h("td", { class: "n" }, values[index] === null || values[index] === undefined ? "" : this.#told(values[index]))))))));
  }
}

customElements.define("run-chart", RunChart);
