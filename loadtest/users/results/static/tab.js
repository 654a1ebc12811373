// Fills the tab "Streams" of Locust's web UI. Locust (React) draws the tab and an empty panel; what stands in the panel
// is ours, put beside Locust's own elements and taken away again when another tab is chosen.

import { about, element, marks, notes, poll, table } from "./figures.js";

const TITLE = "Streams";
const section = element("section", { class: "loadtest-streams", "aria-label": TITLE });
let stop = null;

function show(shown) {
  if (shown instanceof Error) {
    section.querySelector(".status")?.remove();
    section.prepend(element("p", { class: "mark status" }, shown.message));
    return;
  }
  const charts = element("a", { class: "charts", href: new URL("../../loadtest", import.meta.url) }, "Live charts →");
  section.replaceChildren(
    ...marks(shown),
    element("div", { class: "about" }, element("span", {}, about(shown)), charts),
    element("div", { class: "scroll" }, table(shown)),
    ...notes(shown),
  );
}

function place() {
  const tab = document.querySelector('[role="tab"][aria-selected="true"]');
  const panel = tab?.textContent === TITLE ? tab.closest(".MuiContainer-root") : null;
  if (panel && section.parentNode !== panel) panel.append(section);
  if (!panel && section.parentNode) section.remove();
  if (section.isConnected && !stop) stop = poll("tab", show);
  if (!section.isConnected && stop) {
    stop();
    stop = null;
  }
}

document.head.append(element("link", { rel: "stylesheet", href: new URL("streams.css", import.meta.url) }));
new MutationObserver(place).observe(document.body, {
  attributeFilter: ["aria-selected"],
  childList: true,
  subtree: true,
});
place();
