"use strict";
// Films frame by frame: picture, reference, prediction and what is wrong, together; by buttons, slider and keys.
const UNMASKED = 255;
const FAR = 10; // frames that Page Up and Page Down go
const STEP_MS = 100; // between frames whose times are not known
const TINT = 0.62; // how much of a label's colour lies over the film
const AHEAD = 4; // pictures that are made ready before they are shown
const PANES = ["film", "reference", "prediction", "error"];
const CURVES = { dice: "Dice", boundary_f: "boundary F", flicker: "flicker", area: "area (px)" };
const BUTTONS = [
  ["first", "|◀", "First frame (Home)"], ["back", "◀", "One frame back (left arrow)"], ["play", "▶ Play", "Play or stop (space)"],
  ["on", "▶", "One frame on (right arrow)"], ["last", "▶|", "Last frame (End)"], ["worst", "Worst frame", "Frame with the lowest Dice (w)"],
];
const KEYS = {
  ArrowLeft: "back", ArrowRight: "on", Home: "first", End: "last", " ": "play", PageUp: "far back", PageDown: "far on",
  w: "worst", m: "model", l: "label", o: "masks",
};
const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

class Player {
  constructor(box) {
    this.box = box;
    this.facts = JSON.parse(document.getElementById(`film-${box.dataset.film}`).textContent);
    Object.assign(this, { at: 0, shown: -1, label: -1, model: 0, curve: "dice", masks: true, timer: null, images: [] });
    this.count = this.facts.numbers.length;
    this.ready = this.load();
  }

  async load() {
    if (typeof DecompressionStream === "undefined") {
      this.box.append(element("p", { class: "status" }, "This browser cannot unpack masks; one of 2023 or later can."));
      return;
    }
    const packed = [this.facts.reference, ...this.facts.predictions];
    const [reference, ...predictions] = await Promise.all(packed.map((text) => (text === null ? null : unpack(text))));
    Object.assign(this, { reference, predictions });
    this.build();
    this.redrawCurve();
    await this.show(0);
  }

  build() {
    const [rows, columns] = this.facts.size;
    this.overlay = element("canvas", { width: columns, height: rows });
    this.panes = PANES.map((name) => {
      const canvas = element("canvas", { width: columns, height: rows, role: "img", "aria-label": name });
      const words = element("span");
      return { name, canvas, words, box: element("figure", {}, canvas, element("figcaption", {}, name, words)) };
    });
    this.buttons = new Map(BUTTONS.map(([action, text, title]) => {
      const button = element("button", { type: "button", title, "aria-label": title }, text);
      button.addEventListener("click", () => this.act(action));
      return [action, button];
    }));
    this.slider = element("input", { type: "range", min: 0, max: this.count - 1, step: 1, value: 0, "aria-label": "Frame" });
    this.slider.addEventListener("input", () => { this.stop(); this.show(Number(this.slider.value)); });
    const labels = [["-1", "all labels"], ...DATA.labels.map((name, label) => [label, name])];
    const models = DATA.models.map((name, model) => [model, name]);
    this.selects = {
      label: this.select("label", labels, DATA.labels.length > 1, Number),
      model: this.select("model", models, DATA.models.length > 1, Number),
      curve: this.select("curve", Object.entries(CURVES), true, String),
    };
    this.speed = element("select", { "aria-label": "Speed" }, ...[["1", "1 ×"], ["0.5", "½ ×"], ["0.25", "¼ ×"], ["2", "2 ×"]].map(
      ([value, text]) => element("option", { value }, text)));
    this.status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    this.plot = drawn("svg", { class: "plot line", viewBox: "0 0 1000 90", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointermove", (event) => { if (event.buttons) this.point(event); });
    this.range = element("span", { class: "range" });
    this.box.append(
      element("div", { class: "panes" }, ...this.panes.map((pane) => pane.box)),
      element("div", { class: "controls" }, ...this.buttons.values(), this.speed, ...Object.values(this.selects)),
      this.slider, element("div", { class: "timeline" }, this.plot, this.range), this.status,
      element("p", { class: "hint" }, "Arrow keys: one frame. Page Up and Page Down: ten. Home, End: first and last. Space: play. W: worst frame. L: next label. M: next model. O: masks on and off."));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  select(what, choices, wanted, kind) {
    const select = element("select", { "aria-label": what }, ...choices.map(([value, text]) => element("option", { value }, text)));
    select.hidden = !wanted;
    select.addEventListener("change", () => { this[what] = kind(select.value); this.changed(); });
    return select;
  }

  changed() {
    this.redrawCurve();
    this.show(this.at);
  }

  next(what, count, least) {
    this[what] = this[what] + 1 < count ? this[what] + 1 : least;
    this.selects[what].value = this[what];
    this.changed();
  }

  // Keys work in the whole player; a button that has the focus keeps the space bar, and a choice all its keys.
  key(event) {
    const action = KEYS[event.key.length > 1 ? event.key : event.key.toLowerCase()];
    const held = event.altKey || event.ctrlKey || event.metaKey;
    if (!action || held || event.target.tagName === "SELECT" || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    this.act(action);
  }

  act(action) {
    if (action === "play") {
      if (this.timer === null) this.play(); else this.stop();
      return undefined;
    }
    if (action === "label") return this.next("label", DATA.labels.length, -1);
    if (action === "model") return this.next("model", DATA.models.length, 0);
    if (action === "masks") { this.masks = !this.masks; return this.show(this.at); }
    this.stop();
    const goals = { first: 0, last: this.count - 1, back: this.at - 1, on: this.at + 1, "far back": this.at - FAR, "far on": this.at + FAR, worst: this.worst() };
    return this.show(goals[action]);
  }

  play() {
    if (this.at >= this.count - 1) this.at = -1;
    this.status.setAttribute("aria-live", "off");
    this.buttons.get("play").textContent = "■ Stop";
    const step = async () => {
      await this.show(this.at + 1);
      if (this.timer === null) return;
      if (this.at >= this.count - 1) { this.stop(); return; }
      const times = this.facts.times_s;
      const pause = times ? 1000 * (times[this.at + 1] - times[this.at]) : STEP_MS;
      this.timer = setTimeout(step, pause / Number(this.speed.value));
    };
    this.timer = setTimeout(step, 0);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.status.setAttribute("aria-live", "polite");
    this.buttons.get("play").textContent = "▶ Play";
  }

  async picture(frame) {
    if (!this.facts.pictures) return null;
    if (!this.images[frame]) {
      const image = new Image();
      image.src = this.facts.pictures[frame];
      this.images[frame] = image.decode().then(() => image);
    }
    return this.images[frame];
  }

  async show(frame) {
    const at = Math.max(0, Math.min(this.count - 1, frame));
    this.at = at;
    const image = await this.picture(at);
    if (this.at !== at) return; // another one was asked for meanwhile
    for (let next = at + 1; next <= Math.min(at + AHEAD, this.count - 1); next++) this.picture(next);
    const base = at * this.overlay.width * this.overlay.height;
    const masked = this.reference[base] !== UNMASKED;
    const [tints, prediction] = [this.tints(), this.predictions[this.model]];
    const kinds = { film: null, reference: masked ? (v) => tints[this.reference[v]] : null, prediction: prediction ? (v) => tints[prediction[v]] : null,
      error: masked ? (v) => DATA.paints[this.judge(v)] : null };
    for (const pane of this.panes) this.paint(pane, image, base, this.masks ? kinds[pane.name] : null);
    this.say(masked);
    this.slider.value = at;
    this.cursor.setAttribute("x", this.place(at) - 1);
    this.shown = at;
    this.box.dataset.shown = at;
  }

  paint({ canvas }, image, base, colour) {
    const context = canvas.getContext("2d");
    const [wide, high] = [canvas.width, canvas.height];
    if (image) context.drawImage(image, 0, 0, wide, high);
    else { context.fillStyle = `rgb(${DATA.ghost[0]}, ${DATA.ghost[0]}, ${DATA.ghost[0]})`; context.fillRect(0, 0, wide, high); }
    if (!colour) return;
    const over = this.overlay.getContext("2d");
    const pixels = over.createImageData(wide, high);
    for (let v = 0, p = 0; v < wide * high; v++, p += 4) {
      const paint = colour(base + v);
      if (!paint) continue;
      [pixels.data[p], pixels.data[p + 1], pixels.data[p + 2]] = paint;
      pixels.data[p + 3] = Math.round(255 * paint[3]);
    }
    over.putImageData(pixels, 0, 0);
    context.drawImage(this.overlay, 0, 0);
  }

  // For each value the colour of the chosen label, or of the last one that holds it: regions lie in one another.
  tints() {
    return Array.from({ length: 256 }, (_, value) => {
      if (value === UNMASKED || value === DATA.ignored) return null;
      const label = DATA.values.findLastIndex((values, each) => (this.label < 0 || this.label === each) && values.includes(value));
      return label < 0 ? null : [...this.facts.colours[label], TINT];
    });
  }

  judge(v) {
    const there = this.reference[v];
    const prediction = this.predictions[this.model];
    const said = prediction && prediction[v] !== UNMASKED ? prediction[v] : 0;
    if (there === UNMASKED || there === DATA.ignored) return NOTHING;
    if (this.label < 0) {
      if (there === said) return there ? RIGHT : NOTHING;
      return !said ? MISSED : !there ? FALSE : OTHER;
    }
    const [inside, meant] = [there, said].map((value) => DATA.values[this.label].includes(value));
    if (inside && meant) return RIGHT;
    return inside ? MISSED : meant ? FALSE : NOTHING;
  }

  // Values of each frame in the chosen label: of shares the mean, of areas the sum over labels; null where there is none.
  values(name) {
    const rows = (this.facts.scores[this.model] || []).filter((row, label) => row && (this.label < 0 || label === this.label));
    return Array.from({ length: this.count }, (_, frame) => {
      const known = rows.map((row) => row[name][frame]).filter((value) => value !== null);
      if (!known.length) return null;
      const sum = known.reduce((total, value) => total + value, 0);
      return name.endsWith("_px") ? sum : sum / known.length;
    });
  }

  worst() {
    const dice = this.values("dice");
    return dice.reduce((best, value, frame) => (value !== null && (dice[best] === null || value < dice[best]) ? frame : best), 0);
  }

  place(frame) { return this.count > 1 ? 4 + (992 * frame) / (this.count - 1) : 500; }

  redrawCurve() {
    const names = this.curve === "area" ? ["reference_px", "prediction_px"] : [this.curve];
    const lines = names.map((name) => this.values(name));
    const most = this.curve === "area" ? Math.max(1, ...lines.flat().filter((value) => value !== null)) : 1;
    this.range.textContent = `${CURVES[this.curve]}, 0 to ${most}`;
    this.cursor = drawn("rect", { y: 0, width: 2, height: 90, class: "cursor" });
    const shapes = lines.flatMap((values, line) => this.pieces(values).map((piece) => drawn("polyline", {
      points: piece.map((frame) => `${this.place(frame)},${84 - (78 * values[frame]) / most}`).join(" "),
      class: names[line] === "reference_px" ? "reference there" : `curve c${this.model % 6}`,
    })));
    this.plot.replaceChildren(...shapes, this.cursor);
    this.cursor.setAttribute("x", this.place(Math.max(this.at, 0)) - 1);
  }

  // Frames in a row that have a value; one alone is drawn as a short line.
  pieces(values) {
    const found = [];
    values.forEach((value, frame) => {
      if (value === null) return;
      if (frame && values[frame - 1] !== null) found[found.length - 1].push(frame);
      else found.push([frame]);
    });
    return found.map((piece) => (piece.length > 1 ? piece : [piece[0], piece[0]]));
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    this.stop();
    this.show(Math.round(((event.clientX - box.left) / box.width) * (this.count - 1)));
  }

  say(masked) {
    const { numbers, times_s: times, first, frames } = this.facts;
    const value = (name) => this.values(name)[this.at];
    const [there, said] = [value("reference_px"), value("prediction_px")];
    const shares = ["dice", "boundary_f", "flicker"].filter((name) => value(name) !== null).map((name) => `${CURVES[name]} ${value(name).toFixed(3)}`);
    const place = `frame ${first + this.at + 1} of ${frames}, number ${numbers[this.at]}`;
    this.status.textContent = [
      place, ...(times ? [`${times[this.at].toFixed(3)} s`] : []), ...shares,
      ...(said === null ? [] : [`${said} px predicted`]), masked ? `${there ?? 0} px in the reference` : "no reference mask, not scored",
    ].join(" · ");
    this.slider.setAttribute("aria-valuetext", place);
    const notes = { film: this.facts.pictures ? "" : " · not at hand", reference: masked ? "" : " · no mask",
      prediction: this.predictions[this.model] ? "" : " · there is none", error: masked ? "" : " · not scored" };
    for (const pane of this.panes) pane.words.textContent = notes[pane.name];
  }
}

// Masks are unpacked when their player comes into sight.
const PLAYERS = new Map();
function begin(box) {
  if (!PLAYERS.has(box)) PLAYERS.set(box, new Player(box));
  return PLAYERS.get(box);
}
const sight = new IntersectionObserver((seen) => seen.filter((each) => each.isIntersecting).forEach(({ target }) => {
  sight.unobserve(target);
  begin(target);
}), { rootMargin: "300px" });
for (const box of document.querySelectorAll("[data-film]")) {
  box.hidden = false;
  sight.observe(box);
}
