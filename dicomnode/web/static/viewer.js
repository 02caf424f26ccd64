// Three planes of one or two cases: sliders, wheel, clicks and jumps choose the slices, the server draws them.
"use strict";
(() => {
  const tools = {};
  for (const tool of document.querySelectorAll("[data-tool]")) tools[tool.dataset.tool] = tool;
  const linked = document.getElementById("linked");
  const cases = [...document.querySelectorAll(".case")].map((section) => ({
    slices: section.dataset.slices,
    windows: JSON.parse(section.dataset.windows),
    shape: JSON.parse(section.dataset.shape),
    planes: [...section.querySelectorAll(".plane")].map((element) => ({
      name: element.dataset.plane,
      image: element.querySelector("img"),
      slider: element.querySelector("input"),
      output: element.querySelector("output"),
      busy: false,
      stale: false,
    })),
    section,
  }));

  const addressOf = (shown, plane) => {
    const role = tools.role.value in shown.windows ? tools.role.value : Object.keys(shown.windows)[0];
    const [black, white] = shown.windows[role];
    const range = white - black;
    // In the middle the sliders show the window that the server proposes.
    const width = range * Math.pow(2, (50 - Number(tools.width.value)) / 16);
    const level = (black + white) / 2 + range * (50 - Number(tools.level.value)) / 50;
    const query = new URLSearchParams({
      low: (level - width / 2).toFixed(3),
      high: (level + width / 2).toFixed(3),
      outlines: String(tools.outlines.checked),
      opacity: String(Number(tools.opacity.value) / 100),
      probability: String(Boolean(tools.probability && tools.probability.checked)),
    });
    return `${shown.slices}/${role}/${plane.name}/${plane.slider.value}?${query}`;
  };
  const draw = (shown, plane) => {
    plane.output.textContent = `${Number(plane.slider.value) + 1} of ${Number(plane.slider.max) + 1}`;
    if (plane.busy) { plane.stale = true; return; }
    plane.busy = true;
    plane.image.src = addressOf(shown, plane);
  };
  const drawAll = () => cases.forEach((shown) => shown.planes.forEach((plane) => draw(shown, plane)));
  const move = (shown, number, index) => {
    const slider = shown.planes[number].slider;
    const last = Number(slider.max);
    slider.value = String(Math.min(last, Math.max(0, index)));
    draw(shown, shown.planes[number]);
    if (!linked || !linked.checked) return;
    for (const other of cases) {
      if (other === shown) continue;
      const plane = other.planes[number];
      plane.slider.value = String(Math.round(Number(slider.value) / Math.max(1, last) * Number(plane.slider.max)));
      draw(other, plane);
    }
  };
  // Which plane's index grows along (row, column) of each picture, and whether it runs from the end.
  const axes = { axial: [[1, false], [2, false]], coronal: [[0, true], [2, false]], sagittal: [[0, true], [1, false]] };
  for (const shown of cases) {
    shown.planes.forEach((plane, number) => {
      const done = () => { plane.busy = false; if (plane.stale) { plane.stale = false; draw(shown, plane); } };
      plane.image.addEventListener("load", done);
      plane.image.addEventListener("error", done);
      plane.slider.addEventListener("input", () => move(shown, number, Number(plane.slider.value)));
      plane.image.addEventListener("wheel", (event) => {
        event.preventDefault();
        move(shown, number, Number(plane.slider.value) + (event.deltaY > 0 ? -1 : 1));
      }, { passive: false });
      plane.image.addEventListener("click", (event) => {
        // The picture fills its square in one direction only.
        const box = plane.image.getBoundingClientRect();
        const [width, height] = [plane.image.naturalWidth, plane.image.naturalHeight];
        const scale = Math.min(box.width / width, box.height / height);
        const fractions = [
          0.5 + (event.clientY - box.top - box.height / 2) / (height * scale),
          0.5 + (event.clientX - box.left - box.width / 2) / (width * scale),
        ];
        if (fractions.some((fraction) => !(fraction >= 0 && fraction < 1))) return;
        axes[plane.name].forEach(([axis, reversed], side) => {
          const fraction = reversed ? 1 - fractions[side] : fractions[side];
          move(shown, axis, Math.floor(fraction * shown.shape[axis]));
        });
      });
    });
    for (const button of shown.section.querySelectorAll("[data-jump]")) {
      button.addEventListener("click", () => JSON.parse(button.dataset.jump).forEach((index, number) => move(shown, number, index)));
    }
  }
  for (const tool of Object.values(tools)) tool.addEventListener("input", drawAll);
  drawAll();
})();
