{# The page of selections: budgets and thresholds to try, and slices to keep and drop by hand. #}
const tables = {{ sliders | tojson }};
tables.forEach((table, place) => {
  const slider = document.getElementById(`slider-${place + 1}`);
  const answer = document.getElementById(`answer-${place + 1}`);
  function show() {
    const i = +slider.value, kept = table.kept[i];
    answer.textContent = `${table.labels[i]}: ${kept.toLocaleString("en")} of ` +
      `${table.slices.toLocaleString("en")} slices kept (${(100 * kept / table.slices).toFixed(1)} %)` +
      (table.unit ? `, ${table.least[i]} to ${table.most[i]} of a ${table.unit}` : "") +
      (table.last[i] ? `; the least alike pair removed stood at ${table.last[i]}` : "");
  }
  slider.addEventListener("input", show);
  show();
});

// A place is SELECTION/VOLUME/SLICE; what was changed by hand is a set of them.
const {selections, volumes} = {{ edits | tojson }};
const changed = new Set();

function wasKept(place) {
  const [selection, volume, slice] = place.split("/");
  return volumes[volume].kept[selection][slice] === "1";
}

function element(tag, content, values = {}) {
  const made = Object.assign(document.createElement(tag), values);
  made.append(...[content].flat());
  return made;
}

function paint(button) {
  const {place} = button.dataset, isChanged = changed.has(place);
  const [, volume, slice] = place.split("/");
  const kept = wasKept(place) !== isChanged;
  button.setAttribute("aria-pressed", kept);
  button.classList.toggle("changed", isChanged);
  button.title = `slice ${slice}, z ${volumes[volume].z[slice].toFixed(1)} mm: ${kept ? "kept" : "dropped"}. Click to ${kept ? "drop" : "keep"} it`;
}

function fillRail(rail) {
  const [selection, volume] = rail.dataset.rail.split("/");
  rail.replaceChildren(...volumes[volume].z.map((_, slice) => {
    const button = element("button", []);
    button.dataset.place = `${selection}/${volume}/${slice}`;
    button.setAttribute("aria-label", `slice ${slice}`);
    paint(button);
    return button;
  }));
}

function rail(selection, volume) {
  const made = element("div", [], {className: "rail"});
  made.style.setProperty("--own", selections[selection].colour);
  made.dataset.rail = `${selection}/${volume}`;
  fillRail(made);
  return made;
}

function swatch(selection) {
  const made = element("span", [], {className: "swatch"});
  made.style.background = selections[selection].colour;
  return made;
}

function openRow(button) {
  const row = button.closest("tr"), below = row.nextElementSibling;
  if (below && below.classList.contains("rails")) return below.remove();
  const parts = selections.flatMap((one, i) => [element("small", [swatch(i), one.title]), rail(i, button.dataset.open)]);
  row.after(element("tr", element("td", parts, {colSpan: row.cells.length}), {className: "rails"}));
}

function runs(slices) {  // 3,5-9
  const found = [];
  for (const slice of [...slices].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && slice === last[1] + 1) last[1] = slice; else found.push([slice, slice]);
  }
  return found.map(([a, b]) => a === b ? `${a}` : `${a}-${b}`).join(",");
}

function changes(selection) {  // by what is to be done, slices by volume
  const found = {add: new Map(), drop: new Map()};
  for (const place of changed) {
    const [of, volume, slice] = place.split("/");
    if (+of !== selection) continue;
    const what = found[wasKept(place) ? "drop" : "add"];
    what.set(volume, [...what.get(volume) ?? [], +slice]);
  }
  return found;
}

function count(slices) {
  return [...slices.values()].reduce((sum, some) => sum + some.length, 0);
}

function save(selection) {  // the format of lim-gpu select --edits: a line a volume, # before a remark
  const {file} = selections[selection], stem = file.replace(/\.csv$/, "");
  const lines = [`# lim-gpu select ${file} --edits ${stem}.edits.txt -o ${stem}.edited.csv`];
  for (const [what, slices] of Object.entries(changes(selection)))
    for (const [volume, some] of slices) lines.push(`${what} ${volume}:${runs(some)}`);
  const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/plain"}));
  element("a", [], {href: url, download: `${stem}.edits.txt`}).click();
  setTimeout(URL.revokeObjectURL, 60000, url);  // when the browser has read it
}

function undo(selection) {
  const gone = [...changed].filter((place) => place.startsWith(`${selection}/`));
  gone.forEach((place) => changed.delete(place));
  gone.forEach(repaint);
}

function repaint(place) {
  document.querySelectorAll(`[data-place="${place}"]`).forEach(paint);
  const lines = selections.map((one, i) => {
    const {add, drop} = changes(i);
    if (!add.size && !drop.size) return null;
    const buttons = [["Save the edits", save], ["Undo them", undo]].map(
      ([text, work]) => element("button", text, {className: "ask", onclick: () => work(i)}));
    return element("p", [swatch(i), `${one.file}: ${count(add)} added, ${count(drop)} dropped `, ...buttons]);
  });
  const bar = document.getElementById("edits");
  bar.replaceChildren(...lines.filter(Boolean));
  bar.hidden = !bar.children.length;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-place], [data-open]");
  if (!button) return;
  if (button.dataset.open) return openRow(button);
  const {place} = button.dataset;
  if (!changed.delete(place)) changed.add(place);
  repaint(place);
});

document.getElementById("large").addEventListener("enlarged", ({detail}) => {
  if (!volumes[detail.volume]) return;
  const buttons = selections.map((one, i) => {
    const button = element("button", [swatch(i), one.title], {className: "toggle ask", type: "button"});
    button.style.setProperty("--own", one.colour);
    button.dataset.place = `${i}/${detail.volume}/${detail.slice}`;
    paint(button);
    return button;
  });
  document.getElementById("large-more").replaceChildren(...buttons);
});

document.querySelectorAll("[data-rail]").forEach(fillRail);
document.querySelectorAll("[data-place]").forEach(paint);
