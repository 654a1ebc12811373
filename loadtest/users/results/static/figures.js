// What tab and page share: asking for the figures, and showing them as a table.

const NOTHING = "–";
const ENDPOINT = new URL("../figures", import.meta.url);
const PERIOD_MS = { page: 1000, tab: 2000 };

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children); // strings become text: names of requests are never HTML
  return made;
}

/** About three digits, times `factor`; 0 marks a count. The same rule as in text.py. */
export function number(value, factor) {
  if (value === null || value === undefined) return NOTHING;
  if (factor === 0) return String(value);
  const scaled = value * factor;
  const size = Math.abs(scaled);
  if (size >= 9999.5) return Number(scaled.toPrecision(3)).toLocaleString("en");
  return scaled.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/**
 * Ask for the figures now and then, while the page can be seen; `show` gets them, or an Error whose message is a
 * sentence. Returns a function that stops it. `who` is "page" (with history) or "tab" (without).
 */
export function poll(who, show) {
  const url = who === "page" ? ENDPOINT : new URL("?history=0", ENDPOINT);
  let timer = null;
  let stopped = false;
  let last = null;
  async function turn() {
    clearTimeout(timer);
    let shown;
    try {
      shown = document.hidden ? null : await ask(url);
    } catch (error) {
      shown = error;
    }
    if (stopped) return;
    const text = shown instanceof Error ? shown.message : shown;
    if (text && text !== last) show(shown instanceof Error ? shown : JSON.parse(text)); // what is selected stays so
    last = text ?? last;
    clearTimeout(timer);
    timer = setTimeout(turn, PERIOD_MS[who]);
  }
  const seen = () => document.hidden || turn();
  document.addEventListener("visibilitychange", seen);
  turn();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}

async function ask(url) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
  } catch {
    throw new Error("Locust does not answer; these are its last figures.");
  }
  if (answer.redirected) throw new Error("Logged out: log in to Locust again and reload this page.");
  if (!answer.ok) throw new Error(`Locust answers with status ${answer.status}; these are its last figures.`);
  return answer.text();
}

/** The table: a row a name, all of them together at the bottom. */
export function table(shown) {
  const groups = element("tr", {}, element("th", { rowspan: 2, scope: "col" }, "Name"));
  groups.append(element("th", { rowspan: 2, scope: "col" }, "verdict")); // beside the name, where a narrow page shows it
  const parts = element("tr");
  for (const [group, columns] of shown.columns) {
    const formula = shown.formulas[FORMULA_OF(columns[0][1])];
    const hint = formula ? { title: formula } : {};
    groups.append(element("th", { colspan: columns.length, scope: "colgroup", ...hint }, group));
    for (const [index, [part]] of columns.entries()) {
      parts.append(element("th", { scope: "col", ...(index ? {} : { class: "first" }) }, part));
    }
  }
  const body = shown.rows.map((row) => {
    const cells = shown.columns.flatMap(([, columns]) =>
      columns.map(([, key, factor], index) => {
        const text = number(row[key], factor);
        const value = key === "failures" && row[key] ? element("span", { class: "bad" }, text) : text;
        const hint = text === NOTHING ? { title: "unknown, or too few requests to say" } : {};
        return element("td", { "data-key": key, ...(index ? {} : { class: "first" }), ...hint }, value);
      }),
    );
    const named = element("th", { scope: "row", title: row.name }, row.name);
    return element("tr", {}, named, element("td", {}, verdict(row)), ...cells);
  });
  return element("table", {}, element("thead", {}, groups, parts), element("tbody", {}, ...body));
}

const FORMULA_OF = (key) => key.replace(/_p\d+$/, "").replace(/(_per_s)?$/, (unit) => unit || "_s");

export function verdict(row) {
  if (!row.verdict) return NOTHING;
  return element("span", { class: `verdict ${row.verdict}`, title: row.reasons.join("\n") }, row.verdict);
}

/** Sentences below the table: what was left out, and every reason for doubt. */
export function notes(shown) {
  return shown.notes.map((sentence) => element("p", { class: "note" }, sentence));
}

/** Says in colour why the latest test did not begin, and that no real server was measured. */
export function marks(shown) {
  const said = [];
  if (shown.refused) {
    const before = shown.model ? " Below is what the test before it measured." : "";
    said.push(["refused", "NOT STARTED", `${shown.refused}${before}`]);
  }
  if (shown.simulated) said.push(["simulated", "SIMULATED SERVER", shown.simulated]);
  return said.map(([kind, head, text]) =>
    element("p", { class: `mark ${kind}`, role: "status" }, element("strong", {}, head), ` ${text}`),
  );
}

export function about(shown) {
  if (shown.model) return `${shown.model} at ${shown.url} (${shown.dialect})`;
  return shown.refused ? "" : shown.state === "ready" ? "No test has been started yet." : "";
}
