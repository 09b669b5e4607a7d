// Keeps a page as new as the daemon: parts of an evaluation, lines of a log. Without it pages still work.
"use strict";

function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// Replaces what is inside a part, and keeps what the reader has folded as it is.
function replacePart(part, html) {
  const folded = new Map();
  for (const details of part.querySelectorAll("details")) folded.set(details.querySelector("summary b")?.textContent, details.open);
  part.replaceChildren(fragment(html));
  for (const details of part.querySelectorAll("details")) {
    const open = folded.get(details.querySelector("summary b")?.textContent);
    if (open !== undefined) details.open = open;
  }
}

function followEvaluation(now) {
  const events = new EventSource(now.dataset.events);
  events.addEventListener("part", (event) => {
    const { id, html } = JSON.parse(event.data);
    const part = document.getElementById(id);
    if (part) replacePart(part, html);
  });
  events.addEventListener("rows", (event) => {
    for (const { id, html } of JSON.parse(event.data)) {
      const old = document.getElementById(id);
      const row = fragment("<table><tbody>" + html + "</tbody></table>").querySelector("tr");
      if (!old) document.getElementById("moved").hidden = false;
      else if (row && old.outerHTML !== row.outerHTML) {
        row.classList.add("changed");
        row.addEventListener("animationend", () => row.classList.remove("changed"), { once: true });
        old.replaceWith(row);
      }
    }
  });
  events.addEventListener("done", () => {
    events.close();
    document.getElementById("moved").hidden = false;
  });
}

function followLog(section) {
  const log = section.querySelector(".log");
  const events = new EventSource(section.dataset.log);
  let box = log.lastElementChild;
  const atEnd = () => window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
  events.addEventListener("lines", (event) => {
    const follow = atEnd();
    for (const { number, html, phase } of JSON.parse(event.data)) {
      if (phase !== undefined) {
        box = document.createElement("details");
        box.open = true;
        const summary = document.createElement("summary");
        summary.textContent = phase;
        box.append(summary);
        log.append(box);
      } else if (!document.getElementById("L" + number)) {
        if (!box) { box = document.createElement("div"); log.append(box); }
        const line = document.createElement("p");
        line.id = "L" + number;
        const link = document.createElement("a");
        link.href = "#" + line.id;
        link.textContent = number;
        const code = document.createElement("code");
        code.append(fragment(html));
        line.append(link, code);
        box.append(line);
      }
    }
    section.querySelector(".empty")?.remove();
    if (follow) window.scrollTo(0, document.body.scrollHeight);
  });
  // The verdict on the build is on the page that the daemon renders.
  events.addEventListener("done", () => { events.close(); location.reload(); });
}

const now = document.querySelector("[data-events]");
if (now) followEvaluation(now);
const log = document.querySelector("[data-log]");
if (log) followLog(log);
