"use strict";

// Tables: a heading becomes a button that sorts by its column; what is missing stays last.

function keyOf(cell, numeric) {
  if (!numeric) return cell.textContent.trim() || null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
}

function sort(table, heading) {
  const numeric = heading.classList.contains("number");
  const first = numeric ? "descending" : "ascending"; // the largest numbers are what a reader looks for
  const second = numeric ? "ascending" : "descending";
  const order = heading.getAttribute("aria-sort") === first ? second : first;
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const direction = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[heading.cellIndex], numeric), row]);
  rows.sort(([a], [b]) => compare(a, b, direction));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  for (const heading of table.tHead.rows[table.tHead.rows.length - 1].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
  }
}

// Examples: two panels an image, drawn anew whenever the reader chooses.

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function drawnBox(box, categories, size) {
  const { name, colour } = categories[box.category];
  const [x, y, width, height] = box.bbox;
  const words = box.score === null ? name : `${name} ${box.score.toFixed(2)}`;
  const above = y > 1.2 * size;
  return svg(
    "g", {},
    svg("rect", { x, y, width, height, fill: "none", stroke: colour, "stroke-width": size / 5 }),
    svg("text", { x: Math.max(x, 0), y: above ? y - size / 4 : Math.max(y, 0) + size, fill: colour, "font-size": size }, words),
  );
}

function panel(image, choice, label, categories, score) {
  const boxes = image.boxes[choice].filter((box) => box.score === null || box.score >= score);
  const size = image.width / 20;
  const drawing = svg("svg", { viewBox: `0 0 ${image.width} ${image.height}`, role: "img" });
  const names = boxes.map((box) => categories[box.category].name).join(", ");
  drawing.setAttribute("aria-label", `image ${image.image_id}, ${label}: ${names || "no box"}`);
  if (image.pixels) {
    const href = `data:image/png;base64,${image.pixels}`;
    drawing.append(svg("image", { href, width: image.width, height: image.height }));
  }
  drawing.append(...boxes.map((box) => drawnBox(box, categories, size)));
  const caption = document.createElement("figcaption");
  caption.textContent = `${label}: ${boxes.length} box${boxes.length === 1 ? "" : "es"}`;
  const figure = document.createElement("figure");
  figure.append(drawing, caption);
  return figure;
}

function drawExamples(examples, form) {
  const score = Number(form.elements.score.value);
  form.querySelector("output").textContent = score.toFixed(2);
  const labels = Object.fromEntries(examples.choices);
  const pairs = examples.images.map((image) => {
    const pair = document.createElement("div");
    const chosen = [form.elements.left.value, form.elements.right.value];
    pair.append(...chosen.map((choice) => panel(image, choice, labels[choice], examples.categories, score)));
    return pair;
  });
  document.getElementById("panels").replaceChildren(...pairs);
}

function showExamples(examples) {
  const form = document.getElementById("choose");
  const { left, right, score } = form.elements;
  for (const select of [left, right]) {
    select.append(...examples.choices.map(([name, label]) => new Option(label, name)));
  }
  right.selectedIndex = Math.min(1, examples.choices.length - 1);
  score.min = score.value = examples.score;
  for (const kind of ["input", "change"]) form.addEventListener(kind, () => drawExamples(examples, form)); // not all send both
  const legend = Object.values(examples.categories).map(({ name, colour }) => {
    const entry = document.createElement("span");
    entry.textContent = name;
    entry.style.setProperty("--colour", colour);
    return entry;
  });
  document.getElementById("legend").append(...legend);
  form.hidden = false;
  drawExamples(examples, form);
}

document.querySelectorAll("table").forEach(makeSortable);
const boxes = document.getElementById("boxes");
if (boxes) showExamples(JSON.parse(boxes.textContent));

// Paper shows everything: what is folded away opens for printing and closes again.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
