"use strict";
// Tables that are sorted, filtered and paged; the theme; links to rows that are not shown.
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE_ROWS = 60;
const PAPER_ROWS = 240;
// What a place in a mask is, as scene.py has it.
const [NOTHING, RIGHT, MISSED, FALSE, OTHER] = [0, 1, 2, 3, 4];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Bytes that were gzipped and written in base64.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// What a cell is sorted by: its number, with words for what is none; text where it holds no number.
function sortKey(text) {
  if (text === "∞") return Infinity;
  if (text === "–" || text === "") return NaN;
  const plain = text.replace("−", "-");
  return /^-?[\d.]/.test(plain) ? parseFloat(plain) : null;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// What is undefined comes last, whichever way.
function byColumn(column, numeric, sign) {
  const key = (row) => (numeric ? sortKey(row.texts[column]) : row.texts[column]);
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    const [lost, gone] = [a, b].map((value) => value === null || Number.isNaN(value));
    if (lost || gone) return lost - gone || one.place - other.place;
    return sign * compare(a, b) || one.place - other.place;
  };
}

// A table over rows of texts. `show` puts rows into the body; the rows themselves come from the page or from its data.
class Grid {
  constructor({ box, heads, rows, name, show }) {
    Object.assign(this, { box, heads, rows, name, show, most: PAGE_ROWS, chosen: new Map(), words: "", order: null });
    this.texts = rows.map((row, place) => ({ texts: row.texts, place, row }));
    this.tools = box.querySelector(".tools");
    this.addTools();
    this.addSorting();
    this.draw();
  }

  addTools() {
    const pieces = [];
    if (this.rows.length > 8) {
      const search = element("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter ${this.name}` });
      search.addEventListener("input", () => { this.words = search.value.trim().toLowerCase(); this.draw(); });
      pieces.push(search);
    }
    this.heads.forEach((head, column) => {
      if (!head.hasAttribute("data-choices")) return;
      const values = [...new Set(this.texts.map((row) => row.texts[column]))];
      if (values.length < 2 || values.length > 300) return;
      const select = element("select", { "aria-label": head.textContent });
      select.append(element("option", { value: "" }, `every ${head.textContent}`));
      for (const value of values) select.append(element("option", { value }, value));
      select.addEventListener("change", () => {
        if (select.value) this.chosen.set(column, select.value); else this.chosen.delete(column);
        this.draw();
      });
      pieces.push(select);
    });
    this.counter = element("span", { class: "count", role: "status" });
    this.more = element("button", { type: "button" });
    this.more.addEventListener("click", () => { this.most = this.most === Infinity ? PAGE_ROWS : Infinity; this.draw(); });
    const save = element("button", { type: "button" }, "Download CSV");
    save.addEventListener("click", () => this.save());
    this.paper = element("p", { class: "lead paper" });
    this.box.append(this.paper);
    this.tools.append(...pieces, this.counter, this.more, save);
    this.tools.hidden = false;
  }

  addSorting() {
    this.heads.forEach((head, column) => {
      const button = element("button", { type: "button", "aria-label": `Sort by ${head.textContent}` });
      head.dataset.name = head.textContent;
      head.append("\u2060", button); // the arrow stays with the last word
      head.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "ascending";
        for (const other of this.heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "descending" : "ascending");
        this.order = byColumn(column, head.classList.contains("n"), up ? -1 : 1);
        this.draw();
      });
    });
  }

  matching() {
    const found = this.texts.filter(
      (row) =>
        [...this.chosen].every(([column, value]) => row.texts[column] === value) &&
        (!this.words || row.texts.some((text) => text.toLowerCase().includes(this.words)))
    );
    return this.order ? found.sort(this.order) : found;
  }

  draw() {
    const found = this.matching();
    this.show(found.slice(0, this.most).map((row) => row.row));
    const hidden = found.length - Math.min(found.length, this.most);
    this.counter.textContent =
      (found.length === this.rows.length ? `${found.length} rows` : `${found.length} of ${this.rows.length} rows`) +
      (hidden ? `, the first ${this.most} shown` : "");
    this.more.hidden = found.length <= PAGE_ROWS;
    this.more.textContent = hidden ? "Show all" : "Show fewer";
  }

  print() {
    this.kept = this.most;
    this.most = PAPER_ROWS;
    this.draw();
    const found = this.matching().length;
    const words = `The first ${PAPER_ROWS} of ${found} rows; filters on the screen hold for paper, and Download CSV there has all.`;
    this.paper.textContent = found > PAPER_ROWS ? words : "";
  }

  save() {
    // A spreadsheet would take for a formula what begins so and is no number.
    const plain = (text) => (/^[=+\-@\t\r]/.test(text) && !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^-∞$/i.test(text) ? `'${text}` : text);
    const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [this.heads.map((head) => head.dataset.name), ...this.matching().map((row) => row.texts)];
    const text = lines.map((cells) => cells.map((cell) => quoted(plain(cell.replaceAll("−", "-")))).join(",")).join("\r\n");
    const link = element("a", { href: URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" })) });
    link.download = `${this.name.replaceAll(/\W+/g, "-").toLowerCase()}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

const GRIDS = [];

function pageTable(box) {
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((line) => ({ line, texts: [...line.cells].map((cell) => cell.textContent.trim()) }));
  for (const { line } of rows) addViewButton(line);
  const grid = new Grid({
    box, rows, heads: [...table.tHead.rows[0].cells], name: table.caption.textContent,
    show: (shown) => body.replaceChildren(...shown.map((row) => row.line)),
  });
  GRIDS.push({ grid, rows });
}

const viewed = new Set(DATA.viewed);
function viewButton(number, words, at) {
  const button = element("button", { type: "button", class: "row-view", "aria-label": `View ${DATA.cases[number]}` }, words);
  button.addEventListener("click", () => openViewer(number, at));
  return button;
}
function addViewButton(line) {
  const number = Number(line.dataset.case);
  if (line.id && viewed.has(number)) line.cells[0].append(" ", viewButton(number, "view", {}));
}

// The table of single lesions is made from data: there may be many thousands.
function lesionTable(place) {
  if (!place || !DATA.lesions.length) return;
  const columns = [
    ["case", false], ["label", DATA.labels.length > 1], ["model", DATA.models.length > 1], ["kind", true],
    ["volume (ml)", false], ["Dice", false], ["voxel i, j, k", false],
  ];
  const used = columns.map(([name], column) => column).filter((column) => !(
    (column === 1 && DATA.labels.length < 2) || (column === 2 && DATA.models.length < 2)));
  const rows = DATA.lesions.map(([number, label, model, kind, volume, dice, voxel]) => {
    const texts = [DATA.cases[number], DATA.labels[label], DATA.models[model], kind, volume < 0.001 ? volume.toPrecision(2) : volume.toFixed(3),
      kind === "found" ? dice.toFixed(3) : "–", voxel.join(", ")];
    return { texts: used.map((column) => texts[column]), number, model, voxel };
  });
  const heads = used.map((column) => {
    const head = element("th", { scope: "col" }, columns[column][0]);
    if (columns[column][1]) head.setAttribute("data-choices", "");
    if (column === 4 || column === 5) head.className = "n";
    return head;
  });
  const body = element("tbody");
  const table = element("table", { id: "lesion-table" }, element("caption", {}, "Single lesions"),
    element("thead", {}, element("tr", {}, ...heads)), body);
  const skip = element("a", { class: "skip", href: "#after-lesion-table" }, "Skip the table: Single lesions");
  const box = element("div", { class: "table" }, skip, element("div", { class: "tools" }),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Single lesions" }, table), element("span", { id: "after-lesion-table", tabindex: "-1" }));
  place.append(box);
  const cell = (row, text, column) => element(column ? "td" : "th",
    column ? (used[column] === 4 || used[column] === 5 ? { class: "n" } : {}) : { scope: "row" }, text);
  new Grid({
    box, rows, heads, name: "Single lesions",
    show: (shown) => body.replaceChildren(...shown.map((row) => {
      const line = element("tr", {}, ...row.texts.map((text, column) => cell(row, text, column)));
      if (viewed.has(row.number)) line.lastChild.append(" ", viewButton(row.number, "view", { voxel: row.voxel, model: row.model }));
      return line;
    })),
  });
}

// A link may lead to a row that is filtered or paged away.
function reveal() {
  const id = decodeURIComponent(location.hash.slice(1));
  for (const { grid, rows } of GRIDS) {
    const row = rows.find((each) => each.line.id === id);
    if (!row) continue;
    if (!row.line.isConnected) {
      grid.most = Infinity; grid.words = ""; grid.chosen.clear();
      for (const field of grid.tools.querySelectorAll("input, select")) field.value = "";
      grid.draw();
    }
    document.querySelectorAll("tr.marked").forEach((line) => line.classList.remove("marked"));
    row.line.classList.add("marked");
    row.line.scrollIntoView({ block: "center" });
  }
}

// What was chosen holds for the session; pages from a disk may not be allowed to keep anything.
function kept(value) {
  try {
    if (value) sessionStorage.setItem("theme", value);
    return sessionStorage.getItem("theme");
  } catch (refused) {
    return null;
  }
}

function themeButton() {
  const button = document.getElementById("theme");
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  const before = kept();
  if (before === "dark" || before === "light") document.documentElement.dataset.theme = before;
  button.addEventListener("click", () => { kept(document.documentElement.dataset.theme = dark() ? "light" : "dark"); label(); });
  button.hidden = false;
  label();
}

document.querySelectorAll("[data-table]").forEach(pageTable);
lesionTable(document.getElementById("single-lesions"));
themeButton();
for (const button of document.querySelectorAll("[data-view]")) {
  button.hidden = false;
  button.addEventListener("click", () => openViewer(Number(button.dataset.view), {}));
}
window.addEventListener("hashchange", reveal);
if (location.hash) reveal();
// On paper there is no paging, but nobody reads hundreds of rows there.
window.addEventListener("beforeprint", () => GRIDS.forEach(({ grid }) => grid.print()));
window.addEventListener("afterprint", () => GRIDS.forEach(({ grid }) => { grid.most = grid.kept; grid.draw(); }));
