// A small chart of values over time, in SVG: lines or a stack of steps, a point a second.

import { element } from "./figures.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const EDGE = { left: 52, right: 8, top: 10, bottom: 22 };

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** 1, 2 or 5 times a power of ten, such that at most `count` of them make `top`. */
function niceStep(top, count) {
  const rough = top / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((times) => times * power >= rough);
}

export const clock = (second) => new Date(second * 1000).toLocaleTimeString([], { hourCycle: "h23" });

/**
 * `series`: [{name, color, key, format}], with `stacked` drawn on top of each other. `scaled(top)` gives [factor, unit]
 * by the largest value; `open` says what it means that the latest values are null.
 */
export class Chart {
  constructor({ title, note = "", series, stacked = false, whole = false, scaled = () => [1, ""], open = "" }, pointed) {
    Object.assign(this, { series, stacked, whole, scaled, open });
    this.unit = element("small");
    this.note = element("small", {}, note);
    this.at = element("span", { class: "at" });
    this.values = series.map(() => element("span"));
    const keys = series.map((one, index) =>
      element("span", { class: `key ${one.color}` }, element("span", {}, `${one.name} `, this.values[index])),
    );
    this.svg = svg("svg", { role: "img" });
    this.title = title;
    this.heading = element("h2", {}, title, this.unit, this.note, ...keys, this.at);
    this.root = element("article", { class: "chart" }, this.heading, this.svg);
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      if (this.x) pointed(this.x.back(event.clientX - box.left));
    });
    this.svg.addEventListener("pointerleave", () => pointed(null));
  }

  /** Draw `points` over [from, to] in seconds of wall time. */
  draw(points, [from, to]) {
    const width = Math.max(this.svg.clientWidth, 200);
    const right = width - EDGE.right;
    const bottom = HEIGHT - EDGE.bottom;
    const perSecond = (right - EDGE.left) / (to - from);
    this.x = (second) => EDGE.left + (second - from) * perSecond;
    this.x.back = (pixels) => from + (pixels - EDGE.left) / perSecond;
    this.points = points;
    const sums = points.map((point) =>
      this.stacked ? this.series.reduce((sum, { key }) => sum + point[key], 0) : Math.max(...this.series.map(({ key }) => point[key] ?? 0)),
    );
    const top = Math.max(...sums, 0);
    [this.factor, this.unit.textContent] = this.scaled(top);
    const step = Math.max(niceStep((top || 1) * this.factor, 4), this.whole ? 1 : 0);
    const ceiling = step * Math.ceil((top * this.factor) / step || 1);
    const y = (value) => bottom - ((value * this.factor) / ceiling) * (bottom - EDGE.top);

    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren();
    for (let tick = 0; tick <= ceiling + step / 2; tick += step) {
      const height = bottom - (tick / ceiling) * (bottom - EDGE.top);
      const label = Number(tick.toPrecision(6)).toLocaleString("en");
      this.svg.append(svg("line", { class: "grid", x1: EDGE.left, x2: right, y1: height, y2: height }));
      if (points.length) this.svg.append(svg("text", { x: EDGE.left - 8, y: height + 4, "text-anchor": "end" }, label));
    }
    const apart = [5, 10, 15, 30, 60, 120, 300].find((seconds) => seconds * perSecond >= 90) ?? 600;
    for (let tick = Math.ceil(from / apart) * apart; tick <= to; tick += apart) {
      const anchor = this.x(tick) > right - 30 ? "end" : this.x(tick) < EDGE.left + 10 ? "start" : "middle";
      this.svg.append(svg("text", { x: this.x(tick), y: HEIGHT - 5, "text-anchor": anchor }, clock(tick)));
    }
    if (!points.length) {
      const middle = { class: "empty", x: (EDGE.left + right) / 2, y: HEIGHT / 2 };
      this.svg.append(svg("text", middle, "Nothing measured yet"));
    } else if (this.stacked) this.#stack(y);
    else for (const one of this.series) this.#line(one, y, bottom);
    this.line = svg("line", { class: "cursor", y1: EDGE.top, y2: bottom, visibility: "hidden" });
    this.svg.append(this.line);
    this.point(null);
  }

  #line({ key, color }, y, bottom) {
    const group = svg("g", { class: color });
    const middle = (point) => this.x(point.t + 0.5); // a point is about the second that begins at t
    let piece = [];
    const finish = () => {
      if (piece.length === 1) {
        group.append(svg("circle", { class: "dot", cx: middle(piece[0]), cy: y(piece[0][key]), r: 2.5 }));
      } else if (piece.length) {
        const path = piece.map((point) => `${middle(point).toFixed(1)},${y(point[key]).toFixed(1)}`).join("L");
        const [first, last] = [middle(piece[0]), middle(piece.at(-1))];
        group.append(svg("path", { class: "area", d: `M${first.toFixed(1)},${bottom}L${path}L${last.toFixed(1)},${bottom}Z` }));
        group.append(svg("path", { class: "line", d: `M${path}` }));
      }
      piece = [];
    };
    for (const point of this.points) {
      if (point[key] === null) finish();
      else piece.push(point);
    }
    finish();
    this.#unknown(key, bottom, group);
    this.svg.append(group);
  }

  /** Shade the latest seconds where they cannot be known yet: not drawn is not zero. */
  #unknown(key, bottom, group) {
    const known = this.points.findLastIndex((point) => point[key] !== null);
    const missing = this.points.slice(known + 1);
    if (!this.open || !missing.length) return;
    const [left, right] = [this.x(missing[0].t), this.x(missing.at(-1).t + 1)];
    const shade = svg("rect", { class: "open", x: left, y: EDGE.top, width: right - left, height: bottom - EDGE.top });
    shade.append(svg("title", {}, this.open));
    group.append(shade);
    const text = svg("text", { x: (left + right) / 2, y: EDGE.top + 16, "text-anchor": "middle" }, this.open);
    this.svg.append(text); // its width is known only where it stands
    if (text.getComputedTextLength() > right - left - 8) text.remove();
  }

  #stack(y) {
    let floor = this.points.map(() => 0);
    for (const { key, color } of this.series) {
      const roof = this.points.map((point, index) => floor[index] + point[key]);
      const steps = (heights) =>
        this.points.map(({ t }, index) => [`${this.x(t).toFixed(1)},${y(heights[index]).toFixed(1)}`, `${this.x(t + 1).toFixed(1)},${y(heights[index]).toFixed(1)}`]);
      const [above, below] = [steps(roof).flat(), steps(floor).flat().reverse()];
      const group = svg("g", { class: color });
      group.append(svg("path", { class: "stack", d: `M${[...above, ...below].join("L")}Z` }));
      this.svg.append(group);
      floor = roof;
    }
  }

  /** Show the values at an instant, or the latest known ones for null. */
  point(second) {
    const latest = (key) => this.points.findLast((point) => point[key] !== null);
    const chosen = second === null ? null : this.points.find((point) => point.t === Math.floor(second));
    this.at.textContent = chosen ? clock(chosen.t) : "";
    for (const [index, { key, format }] of this.series.entries()) {
      const value = (chosen ?? latest(key))?.[key];
      this.values[index].textContent = value === undefined || value === null ? "–" : format(value * this.factor);
    }
    this.line.setAttribute("visibility", chosen ? "visible" : "hidden");
    if (chosen) {
      this.line.setAttribute("x1", this.x(chosen.t + 0.5));
      this.line.setAttribute("x2", this.x(chosen.t + 0.5));
    }
    const said = this.series.map(({ name }, index) => `${name} ${this.values[index].textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title} ${this.unit.textContent}: ${said}`);
  }
}
