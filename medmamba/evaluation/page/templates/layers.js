"use strict";
// Pictures of one pair on one another, with a border that moves; without this script they lie side by side.
const FIRST = ["before", "after"];

function layers(box) {
  const pictures = new Map([...box.querySelectorAll("img[data-layer]")].map((img) => [img.dataset.layer, img]));
  const [lower, upper] = [0, 1].map(() => element("img", { alt: "" }));
  const { width, height } = pictures.values().next().value;
  // Each view has its border, all of them at the same share of its width.
  const panels = JSON.parse(box.dataset.layers);
  const lines = panels.map(() => element("i"));
  const stage = element("div", { class: "stage", style: `aspect-ratio: ${width} / ${height}` }, lower, upper, ...lines);
  const border = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `Border between both pictures of ${box.getAttribute("aria-label")}` });
  const selects = FIRST.map((name, side) => {
    const select = element("select", { "aria-label": side ? "Right of the border" : "Left of the border" });
    for (const each of pictures.keys()) select.append(element("option", { value: each }, each));
    select.value = name;
    select.addEventListener("change", draw);
    return select;
  });

  function draw() {
    const [left, right] = selects.map((select) => pictures.get(select.value));
    [upper.src, lower.src] = [left.src, right.src];
    upper.alt = `Left: ${left.alt}`;
    lower.alt = `Right: ${right.alt}`;
  }

  function move(percent) {
    border.value = Math.max(0, Math.min(100, percent));
    const corners = panels.flatMap(([start, end], place) => {
      const [left, right] = [100 * start, 100 * start + border.value * (end - start)];
      lines[place].style.left = `${right}%`;
      return [[left, 100], [left, 0], [right, 0], [right, 100]];
    });
    upper.style.clipPath = `polygon(${corners.map(([x, y]) => `${x}% ${y}%`).join(", ")})`;
    border.setAttribute("aria-valuetext", `${Math.round(border.value)} % ${selects[0].value}`);
  }

  // The view in which the finger went down stays the one that is asked.
  let held = 0;
  const drag = (event) => {
    const place = stage.getBoundingClientRect();
    const share = (event.clientX - place.left) / place.width;
    if (event.type === "pointerdown") held = Math.max(0, panels.findLastIndex(([start]) => start <= share));
    const [start, end] = panels[held];
    move(100 * (share - start) / (end - start));
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  border.addEventListener("input", () => move(border.value));
  const tools = element("div", { class: "sides" }, selects[0], border, selects[1]);
  box.querySelector(".all").before(stage, tools);
  box.classList.add("live");
  draw();
  move(50);
}

for (const box of document.querySelectorAll("[data-layers]")) layers(box);
