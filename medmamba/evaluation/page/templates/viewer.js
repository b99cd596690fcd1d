"use strict";
// A case in three planes, errors in colours; in 3D where NiiVue is on the page. Volumes are in RAS order, x fastest.
const VIEWS = [
  { name: "axial", across: 0, up: 1, through: 2 },
  { name: "coronal", across: 0, up: 2, through: 1 },
  { name: "sagittal", across: 1, up: 2, through: 0 },
];
const viewer = document.getElementById("viewer");
const state = { number: null, model: 0, label: -1, opacity: 1, at: [0, 0, 0], solid: false };

// The image on the masks' grid: the nearest of the voxels that were kept.
function expanded(small, shape, step) {
  if (step === 1) return small;
  const [nx, ny, nz] = shape;
  const [sx, sy] = shape.map((size) => Math.ceil(size / step));
  const whole = new Uint8Array(nx * ny * nz);
  for (let z = 0, v = 0; z < nz; z++)
    for (let y = 0; y < ny; y++) {
      const row = sx * (Math.floor(y / step) + sy * Math.floor(z / step));
      for (let x = 0; x < nx; x++) whole[v++] = small[row + Math.floor(x / step)];
    }
  return whole;
}

const unpacked = new Map();
async function load(number) {
  if (!unpacked.has(number)) {
    const facts = JSON.parse(document.getElementById(`volumes-${number}`).textContent);
    const [reference, ...predictions] = await Promise.all(
      [facts.reference, ...facts.predictions].map((text) => (text === null ? null : unpack(text))));
    const image = facts.image === null ? null : expanded(await unpack(facts.image), facts.shape, facts.step);
    unpacked.clear(); // one case is enough to hold
    unpacked.set(number, { ...facts, reference, predictions, image });
  }
  return unpacked.get(number);
}

// What each voxel is, for one label or, by -1, for all together.
function judge(scene) {
  const { reference } = scene;
  const prediction = scene.predictions[state.model] || new Uint8Array(reference.length);
  const judged = new Uint8Array(reference.length);
  if (state.label < 0) {
    for (let v = 0; v < judged.length; v++) {
      const [there, said] = [reference[v], prediction[v]];
      if (there || said) judged[v] = there === DATA.ignored ? NOTHING : there === said ? RIGHT : !said ? MISSED : !there ? FALSE : OTHER;
    }
    return judged;
  }
  const inside = new Uint8Array(256);
  for (const value of DATA.values[state.label]) inside[value] = 1;
  for (let v = 0; v < judged.length; v++) {
    const [there, said] = [inside[reference[v]], inside[prediction[v]]];
    if ((there || said) && reference[v] !== DATA.ignored) judged[v] = there && said ? RIGHT : there ? MISSED : FALSE;
  }
  return judged;
}

function strides(shape) { return [1, shape[0], shape[0] * shape[1]]; }
function clamp(value, size) { return Math.max(0, Math.min(size - 1, Math.round(value))); }

// The middle of the largest error, by voxels that touch; of what is right where nothing is wrong.
function worst(scene) {
  const least = scene.judged.some((kind) => kind > RIGHT) ? RIGHT : NOTHING;
  const [nx, ny, nz] = scene.shape;
  const seen = new Uint8Array(scene.judged.length);
  let largest = [];
  for (let start = 0; start < seen.length; start++) {
    if (scene.judged[start] <= least || seen[start]) continue;
    const part = [start];
    seen[start] = 1;
    for (let next = 0; next < part.length; next++) {
      const [x, y, z] = placeOf(scene, part[next]);
      for (let c = Math.max(z - 1, 0); c <= Math.min(z + 1, nz - 1); c++)
        for (let b = Math.max(y - 1, 0); b <= Math.min(y + 1, ny - 1); b++)
          for (let a = Math.max(x - 1, 0); a <= Math.min(x + 1, nx - 1); a++) {
            const v = a + nx * (b + ny * c);
            if (scene.judged[v] > least && !seen[v]) { seen[v] = 1; part.push(v); }
          }
    }
    if (part.length > largest.length) largest = part;
  }
  return largest.length ? middle(scene, largest) : scene.shape.map((size) => Math.floor(size / 2));
}
function placeOf(scene, v) {
  const [nx, ny] = scene.shape;
  return [v % nx, Math.floor(v / nx) % ny, Math.floor(v / (nx * ny))];
}

// Of these voxels the one nearest to the mean of all.
function middle(scene, voxels) {
  const mean = [0, 0, 0];
  for (const v of voxels) placeOf(scene, v).forEach((along, axis) => { mean[axis] += along / voxels.length; });
  let [best, least] = [mean, Infinity];
  for (const v of voxels) {
    const at = placeOf(scene, v);
    const away = at.reduce((sum, along, axis) => sum + ((along - mean[axis]) * scene.spacing_mm[axis]) ** 2, 0);
    if (away < least) [best, least] = [at, away];
  }
  return best;
}

// From a voxel of the file to one of the scene, and back.
function toScene(scene, voxel) {
  return scene.order.map((axis, ras) => {
    const along = scene.flips[ras] ? scene.file_shape[axis] - 1 - voxel[axis] : voxel[axis];
    return clamp(along - scene.start[ras], scene.shape[ras]);
  });
}
function toFile(scene, at) {
  const voxel = [0, 0, 0];
  scene.order.forEach((axis, ras) => {
    const along = at[ras] + scene.start[ras];
    voxel[axis] = scene.flips[ras] ? scene.file_shape[axis] - 1 - along : along;
  });
  return voxel;
}

function paint(scene, pane) {
  const { view, canvas } = pane;
  const [columns, rows] = [scene.shape[view.across], scene.shape[view.up]];
  const step = strides(scene.shape);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const base = state.at[view.through] * step[view.through];
  for (let row = 0, p = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, p += 4) {
      const v = base + (columns - 1 - column) * step[view.across] + (rows - 1 - row) * step[view.up];
      const grey = scene.image ? scene.image[v] : pane.ghost[row * columns + column];
      const [red, green, blue, share] = DATA.paints[scene.judged[v]] || [0, 0, 0, 0];
      const over = share * state.opacity;
      pixels.data[p] = grey + (red - grey) * over;
      pixels.data[p + 1] = grey + (green - grey) * over;
      pixels.data[p + 2] = grey + (blue - grey) * over;
      pixels.data[p + 3] = 255;
    }
  context.putImageData(pixels, 0, 0);
  pane.vertical.style.left = `${((columns - 0.5 - state.at[view.across]) / columns) * 100}%`;
  pane.horizontal.style.top = `${((rows - 0.5 - state.at[view.up]) / rows) * 100}%`;
  pane.slider.value = state.at[view.through];
}

function describe(scene) {
  const step = strides(scene.shape);
  const v = state.at.reduce((sum, place, axis) => sum + place * step[axis], 0);
  const names = (map) => DATA.labels.filter((_, label) => map && DATA.values[label].includes(map[v])).join(", ") || "none";
  viewer.querySelector(".status").textContent =
    `voxel ${toFile(scene, state.at).join(", ")} · reference: ${names(scene.reference)} · prediction: ` +
    (scene.predictions[state.model] ? names(scene.predictions[state.model]) : "there is none");
}

let scene = null;
let panes = [];
let chosen = null; // the pane that keys move in, wherever the focus is
function redraw() {
  for (const pane of panes) paint(scene, pane);
  describe(scene);
}
function rejudge() {
  scene.judged = judge(scene);
  redraw();
  if (state.solid) showSolid();
}
function move(axis, by) {
  state.at[axis] = clamp(state.at[axis] + by, scene.shape[axis]);
  redraw();
}

// Without an image, what the reference holds in any slice shows faintly, to tell where one is.
function ghostOf(view) {
  const [columns, rows] = [scene.shape[view.across], scene.shape[view.up]];
  const [nx, ny] = scene.shape;
  const ghost = new Uint8Array(columns * rows).fill(DATA.ghost[0]);
  scene.reference.forEach((value, v) => {
    if (!value) return;
    const at = [v % nx, Math.floor(v / nx) % ny, Math.floor(v / (nx * ny))];
    ghost[(rows - 1 - at[view.up]) * columns + columns - 1 - at[view.across]] = DATA.ghost[1];
  });
  return ghost;
}

function makePane(view) {
  const [columns, rows] = [scene.shape[view.across], scene.shape[view.up]];
  const canvas = element("canvas", { width: columns, height: rows });
  const [vertical, horizontal] = [element("i"), element("i")];
  const frame = element("div", { class: "frame", tabindex: "0", role: "application", "aria-label": `${view.name} view: arrow keys move the cross-hair, Page Up and Page Down change the slice` }, canvas, vertical, horizontal);
  Object.assign(vertical.style, { top: 0, bottom: 0, width: "1px" });
  Object.assign(horizontal.style, { left: 0, right: 0, height: "1px" });
  const places = [{ left: "4px", top: "46%" }, { right: "4px", top: "46%" }, { bottom: "2px", left: "49%" }, { top: "2px", left: "49%" }];
  ["RAS"[view.across], "LPI"[view.across], "LPI"[view.up], "RAS"[view.up]].forEach((letter, side) => {
    const mark = element("b", {}, letter);
    Object.assign(mark.style, places[side]);
    frame.append(mark);
  });
  const ghost = scene.image ? null : ghostOf(view);
  const slider = element("input", { type: "range", min: 0, max: scene.shape[view.through] - 1, step: 1, "aria-label": `${view.name} slice` });
  const pane = { view, canvas, vertical, horizontal, slider, frame, ghost };
  pane.box = element("div", { class: "pane" }, frame, element("label", {}, view.name, slider));
  slider.addEventListener("input", () => { state.at[view.through] = Number(slider.value); redraw(); });
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    state.at[view.across] = clamp(columns - 0.5 - ((event.clientX - box.left) / box.width) * columns, columns);
    state.at[view.up] = clamp(rows - 0.5 - ((event.clientY - box.top) / box.height) * rows, rows);
    redraw();
  };
  frame.addEventListener("pointerdown", (event) => { frame.setPointerCapture(event.pointerId); point(event); });
  frame.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
  frame.addEventListener("wheel", (event) => { event.preventDefault(); move(view.through, Math.sign(-event.deltaY)); }, { passive: false });
  frame.addEventListener("focus", () => { chosen = pane; });
  return pane;
}

// All panes on one scale, as large as the window allows.
function layOut() {
  if (!scene || !panes.length) return;
  const size = scene.shape.map((count, axis) => count * scene.spacing_mm[axis]);
  const room = viewer.querySelector(".panes").clientWidth || viewer.clientWidth - 40;
  const tall = innerHeight * 0.62;
  const widths = panes.map(({ view }) => size[view.across]);
  const heights = panes.map(({ view }) => size[view.up]);
  const across = room < 620 ? Math.max(...widths) : widths.reduce((sum, width) => sum + width, 0);
  const scale = Math.min((room - 12 * panes.length) / across, tall / Math.max(...heights));
  panes.forEach((pane, place) => {
    pane.box.style.width = `${widths[place] * scale}px`;
    pane.frame.style.height = `${heights[place] * scale}px`;
  });
}

async function openViewer(number, { voxel, model }) {
  if (!viewer.open) viewer.showModal();
  viewer.querySelector("h2").textContent = DATA.cases[number];
  if (typeof DecompressionStream === "undefined") {
    viewer.querySelector(".status").textContent = "This browser cannot unpack volumes; one of 2023 or later can.";
    return;
  }
  viewer.querySelector(".status").textContent = "Unpacking …";
  const changed = state.number !== number;
  state.number = number;
  if (model !== undefined) state.model = model;
  viewer.querySelector("[data-model]").value = state.model;
  scene = await load(number);
  if (state.number !== number) return; // another one was asked for meanwhile
  scene.judged = judge(scene);
  if (changed || !panes.length) {
    const views = VIEWS.filter((view) => scene.shape[view.across] > 1 && scene.shape[view.up] > 1);
    panes = (views.length ? views : VIEWS.slice(0, 1)).map(makePane);
    viewer.querySelector(".panes").replaceChildren(...panes.map((pane) => pane.box));
    chosen = panes[0];
  }
  state.at = voxel ? toScene(scene, voxel) : worst(scene);
  layOut();
  redraw();
  if (voxel && state.solid) await switchSolid();
  else if (state.solid) await showSolid();
}

function step(by) {
  const place = DATA.viewed.indexOf(state.number);
  openViewer(DATA.viewed[(place + by + DATA.viewed.length) % DATA.viewed.length], {});
}

function setUp() {
  const [models, labels] = ["[data-model]", "[data-label]"].map((which) => viewer.querySelector(which));
  DATA.models.forEach((name, place) => models.append(element("option", { value: place }, name)));
  labels.append(element("option", { value: -1 }, "all"));
  DATA.labels.forEach((name, place) => labels.append(element("option", { value: place }, name)));
  models.parentElement.hidden = DATA.models.length < 2;
  labels.parentElement.hidden = DATA.labels.length < 2;
  models.addEventListener("change", () => { state.model = Number(models.value); rejudge(); });
  labels.addEventListener("change", () => { state.label = Number(labels.value); rejudge(); });
  const opacity = viewer.querySelector("[data-opacity]");
  opacity.addEventListener("input", () => { state.opacity = Number(opacity.value); redraw(); });
  const toWorst = () => { state.at = worst(scene); redraw(); };
  viewer.querySelector("[data-worst]").addEventListener("click", toWorst);
  viewer.querySelector("[data-close]").addEventListener("click", () => viewer.close());
  for (const button of viewer.querySelectorAll("[data-step]")) {
    button.hidden = DATA.viewed.length < 2;
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
  viewer.querySelector("[data-mode]")?.addEventListener("click", switchSolid);
  // Wherever the focus is; a click beside the pictures takes it out of the dialog.
  document.addEventListener("keydown", (event) => {
    const field = event.target.tagName; // fields have uses of their own for some keys
    if (!viewer.open || !chosen || field === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!state.solid && field !== "INPUT") {
      const { across, up, through } = chosen.view;
      const moves = { ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1], PageUp: [through, 1], PageDown: [through, -1] };
      if (moves[event.key]) {
        event.preventDefault();
        return move(...moves[event.key]);
      }
    }
    const keys = {
      w: toWorst,
      o: () => { opacity.value = state.opacity = state.opacity ? 0 : 1; redraw(); },
      m: () => { models.value = state.model = (state.model + 1) % DATA.models.length; rejudge(); },
    };
    keys[event.key.toLowerCase()]?.();
  });
  addEventListener("resize", layOut);
}

// --- 3D: NiiVue as a widget of its own, which is given a model in place of a notebook's.
class Model {
  constructor(values) { this.values = values; this.listeners = new Map(); }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  change(name, value) { this.set(name, value); for (const listener of this.listeners.get(`change:${name}`) || []) listener(); }
  on(name, listener) { this.listeners.set(name, [...(this.listeners.get(name) || []), listener]); }
  off(name, listener) { this.listeners.set(name, listener ? (this.listeners.get(name) || []).filter((each) => each !== listener) : []); }
  save_changes() {}
  send() {}
  send_sync_message() {}
  get _comm_live() { return false; }
}

// NIfTI-1 of a byte a voxel with form codes and matrices that agree.
function nifti({ shape, spacing_mm: spacing }, voxels, highest) {
  const file = new Uint8Array(352 + voxels.length);
  const header = new DataView(file.buffer);
  header.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((size, place) => header.setInt16(40 + 2 * place, size, true));
  header.setInt16(70, 2, true);
  header.setInt16(72, 8, true);
  [1, ...spacing].forEach((size, place) => header.setFloat32(76 + 4 * place, size, true));
  header.setFloat32(108, 352, true);
  header.setFloat32(112, 1, true);
  header.setUint8(123, 2);
  header.setFloat32(124, highest, true);
  header.setInt16(252, 1, true);
  header.setInt16(254, 1, true);
  shape.forEach((size, axis) => {
    const origin = -((size - 1) * spacing[axis]) / 2;
    header.setFloat32(268 + 4 * axis, origin, true);
    header.setFloat32(280 + 16 * axis + 4 * axis, spacing[axis], true);
    header.setFloat32(280 + 16 * axis + 12, origin, true);
  });
  file.set(new TextEncoder().encode("n+1\0"), 344);
  file.set(voxels, 352);
  return file;
}

let widget = null;
let shownVolumes = new Map();
async function niivue() {
  if (widget) return widget;
  const script = await unpack(document.getElementById("niivue").textContent);
  // The module tells the console each step, and has no option not to: it gets one of its own, without that.
  const quiet = "const console = { ...globalThis.console, log() {} };\n";
  const address = URL.createObjectURL(new Blob([quiet, script], { type: "text/javascript" }));
  const module = await import(address);
  URL.revokeObjectURL(address);
  const model = new Model({
    volumes: [], meshes: [], height: viewer.querySelector(".solid").clientHeight, scene: null, graph: null, draw_lut: null,
    opts: {
      sliceType: 3, multiplanarShowRender: 1, multiplanarForceRender: true, heroImageFraction: 0.62, heroSliceType: 4, tileMargin: 4,
      backColor: [0.05, 0.067, 0.086, 1], crosshairColor: [1, 1, 1, 0.45], crosshairWidth: 0.6, fontColor: [0.79, 0.83, 0.88, 1],
      isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: true, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
    },
    background_masks_overlays: 0, draw_opacity: 0.8, draw_fill_overwrites: true, overlay_outline_width: 0, overlay_alpha_shader: 1,
  });
  model.widget_manager = { get_model: async (id) => shownVolumes.get(id) };
  await module.default.initialize({ model });
  await module.default.render({ model, el: viewer.querySelector(".solid") });
  widget = model;
  return widget;
}

let volumeCount = 0;
function volumeModel(name, data, facts) {
  const id = `volume-${volumeCount++}`;
  const empty = { path: {}, url: "", paired_img_path: {}, paired_img_url: "", paired_img_data: null };
  const model = new Model({ id, name, data, opacity: 1, colormap: "gray", colorbar_visible: false, frame_4d: 0, cal_min: 0, cal_max: 255, cal_min_neg: NaN, cal_max_neg: NaN, colormap_negative: "", colormap_label: null, colormap_type: 0, colormap_invert: false, modulation_image: null, modulate_alpha: 0, ...empty, ...facts });
  model.widget_manager = { get_model: async (other) => shownVolumes.get(other) };
  shownVolumes.set(id, model);
  return `IPY_MODEL_${id}`;
}

async function showSolid() {
  const widget = await niivue();
  const lut = [];
  for (let kind = 0; kind <= OTHER; kind++) {
    const [red, green, blue] = DATA.paints[kind] || [0, 0, 0];
    lut.push(red, green, blue, kind === NOTHING ? 0 : kind === RIGHT ? Math.round(255 * DATA.paints[kind][3]) : 255);
  }
  const label = { lut, min: 0, max: OTHER, labels: ["", "right", "missed", "false", "other"] };
  shownVolumes = new Map();
  const volumes = [];
  if (scene.image) volumes.push(volumeModel("image.nii", nifti(scene, scene.image, 255), { cal_max: 255 }));
  volumes.push(volumeModel("errors.nii", nifti(scene, scene.judged, OTHER), { cal_max: OTHER, colormap_label: label }));
  widget.change("volumes", volumes);
  widget.change("scene", { crosshairPos: state.at.map((place, axis) => (place + 0.5) / scene.shape[axis]) });
}

async function switchSolid() {
  if (!state.solid && !hasWebGL()) {
    viewer.querySelector(".status").textContent = "No 3D here: this browser offers no WebGL 2, or it is switched off. The slices need none.";
    return;
  }
  state.solid = !state.solid;
  const button = viewer.querySelector("[data-mode]");
  button.setAttribute("aria-pressed", state.solid);
  viewer.querySelectorAll(".panes, [data-flat]").forEach((part) => { part.hidden = state.solid; });
  viewer.querySelectorAll(".solid, [data-solid]").forEach((part) => { part.hidden = !state.solid; });
  viewer.querySelector(".status").textContent = "";
  if (state.solid) await showSolid();
  else { layOut(); redraw(); }
}

// Slices need no WebGL, so they stay where there is none.
const hasWebGL = () => Boolean(element("canvas").getContext("webgl2"));

if (viewer) setUp();
