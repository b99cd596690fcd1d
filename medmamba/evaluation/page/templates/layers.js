"use strict";
// Pictures of one pair on one another, with a border that moves; without this script they lie side by side.
const FIRST = ["before", "after"];

function layers(box) {
  const pictures = new Map([...box.querySelectorAll("img[data-layer]")].map((img) => [img.dataset.layer, img]));
  const [lower, upper] = [0, 1].map(() => element("img", { alt: "" }));
  const { width, height } = pictures.values().next().value;
  const stage = element("div", { class: "stage", style: `aspect-ratio: ${width} / ${height}` }, lower, upper, element("i"));
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
    stage.style.setProperty("--border", `${border.value}%`);
    border.setAttribute("aria-valuetext", `${Math.round(border.value)} % ${selects[0].value}`);
  }

  const drag = (event) => {
    const place = stage.getBoundingClientRect();
    move(100 * (event.clientX - place.left) / place.width);
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
