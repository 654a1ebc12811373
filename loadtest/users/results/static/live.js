// The page of live charts: asks once a second, draws all anew.

import { Chart } from "./chart.js";
import { about, element, marks, notes, number, poll, table, verdict } from "./figures.js";

const SPANS = { "2 min": 120, "5 min": 300, "15 min": 900 };
const SHORTEST = 30; // a test that has just begun is drawn on half a minute
const digits = (value) => number(value, 1);
const time = (top, most = 2) => (top < most ? [1000, "ms"] : [1, "s"]);
const at = (id) => document.getElementById(id);

let shown = null;
let span = SPANS["5 min"];
let pointed = null;

const point = (second) => {
  pointed = second;
  for (const chart of charts) chart.point(second);
};
const charts = [
  new Chart(
    { title: "TTFT", series: [{ name: "p50", color: "blue", key: "ttft_p50", format: digits }], scaled: time },
    point,
  ),
  new Chart(
    {
      title: "Output tokens/s",
      note: "all streams together, in the second in which they arrived; shaded: not known before these streams end",
      series: [{ name: "tokens/s", color: "green", key: "tokens_per_s", format: digits }],
      open: "known when these streams end",
    },
    point,
  ),
  new Chart(
    {
      title: "Streams in flight",
      note: "waiting: for the first token",
      series: [
        { name: "decoding", color: "blue", key: "decoding", format: String },
        { name: "waiting", color: "orange", key: "waiting", format: String },
      ],
      stacked: true,
      whole: true,
    },
    point,
  ),
];

function tiles({ rows }) {
  const total = rows.at(-1);
  const wait = (key) => {
    const [factor, unit] = time(total[key] ?? 0, 1);
    return [number(total[key], factor), total[key] === null ? "" : unit];
  };
  const facts = [
    ["TTFT p50", ...wait("ttft_p50")],
    ["TTFT p99", ...wait("ttft_p99")],
    ["ITL p99", ...wait("itl_p99")],
    ["stream tokens/s", number(total.stream_tokens_per_s_p50, 1), ""],
    ["output tokens/s", number(total.output_tokens_per_s, 1), ""],
    ["queue wait p95", ...wait("queue_wait_p95")],
    ["requests", number(total.requests, 0), total.failures ? `${total.failures} failed` : ""],
    ["verdict", verdict(total), ""],
  ];
  return facts.map(([name, value, unit]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, element("small", {}, unit))),
  );
}

function draw() {
  if (!shown) return;
  const { history } = shown;
  const first = history[0]?.t ?? Math.floor(Date.now() / 1000) - SHORTEST;
  const end = (history.at(-1)?.t ?? first) + 1;
  const from = Math.max(first, end - span);
  const range = [from, Math.max(end, from + SHORTEST)];
  const points = history.filter((one) => one.t >= from);
  for (const chart of charts) {
    chart.draw(points, range);
  }
  point(pointed);
}

function show(said) {
  document.querySelector(".status")?.remove();
  if (said instanceof Error) {
    at("marks").prepend(element("p", { class: "mark status", role: "status" }, said.message));
    return;
  }
  shown = said;
  at("about").textContent = about(said);
  at("state").textContent = said.model ? `${said.state}, ${said.users} ${said.users === 1 ? "user" : "users"}` : "";
  at("state").className = ["running", "spawning"].includes(said.state) ? "running" : "";
  at("marks").replaceChildren(...marks(said));
  at("tiles").replaceChildren(...tiles(said));
  at("charts").hidden = false;
  at("table").replaceChildren(table(said));
  at("notes").replaceChildren(...notes(said));
  at("formulas").replaceChildren(
    ...Object.entries(said.formulas).flatMap(([name, formula]) => [element("dt", {}, name), element("dd", {}, formula)]),
  );
  charts[0].note.textContent = `of the requests whose first token came in the last ${said.smoothed_s} s`;
  draw();
}

function choose(seconds) {
  span = seconds;
  for (const button of at("spans").children) {
    button.setAttribute("aria-pressed", String(SPANS[button.textContent] === seconds));
  }
  draw();
}

/** Locust keeps its choice of light or dark under the same name, so each follows the other. */
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

for (const [name, seconds] of Object.entries(SPANS)) {
  const button = element("button", { type: "button" }, name);
  button.addEventListener("click", () => choose(seconds));
  at("spans").append(button);
}
at("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.theme = dark ? "light" : "dark";
  paint(localStorage.theme);
});
paint(localStorage.theme);
at("charts").append(...charts.map((chart) => chart.root));
new ResizeObserver(draw).observe(at("charts"));
choose(span);
poll("page", show);
