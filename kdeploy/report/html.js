"use strict";
// The page is whole without this: it adds what a mark says on hover or focus, and the filter.
(() => {
  const area = document.querySelector(".area");
  if (!area) return;
  const tip = area.querySelector(".tip");
  const marks = [...area.querySelectorAll(".mark")];

  function show(mark) {
    tip.textContent = mark.dataset.text;
    tip.hidden = false;
    const disc = mark.querySelector(".disc").getBoundingClientRect();
    const frame = area.getBoundingClientRect();
    const middle = disc.left + disc.width / 2 - frame.left - tip.offsetWidth / 2;
    const above = disc.top - frame.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(0, Math.min(middle, frame.width - tip.offsetWidth))}px`;
    tip.style.top = `${above > 0 ? above : disc.bottom - frame.top + 8}px`;
  }

  function hide() {
    tip.hidden = true;
  }

  for (const mark of marks) {
    mark.addEventListener("pointerenter", () => show(mark));
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  const filter = document.querySelector(".filter");
  if (!filter) return;
  const buttons = [...filter.querySelectorAll("button")];

  function select(cell) {
    hide();
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.cell === cell);
    for (const mark of area.querySelectorAll("[data-cell]")) {
      mark.toggleAttribute("hidden", cell !== "all" && mark.dataset.cell !== cell);
    }
  }

  for (const button of buttons) button.addEventListener("click", () => select(button.dataset.cell));
  filter.hidden = false;
  select("0");
})();
