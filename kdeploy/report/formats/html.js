"use strict";
// The page is whole without this: it adds what a mark says on hover or focus, the filters, the
// Pareto front of what they leave, and the scale of the bars that they leave.
(() => {
  const areas = [...document.querySelectorAll(".area")];
  const form = document.querySelector(".filters");
  const selects = form ? [...form.querySelectorAll("select")] : [];
  const members = [...document.querySelectorAll("[data-f]")];
  const places = new Map(members.map((member) => [member, member.dataset.f.split(" ")]));
  const groups = [...document.querySelectorAll("[data-group]")];
  const seen = (element) => !element.hasAttribute("hidden");

  function filter() {
    const chosen = selects.map((select) => select.value);
    const differs = (own, wanted) => wanted !== "" && own !== "-" && own !== wanted;
    for (const [member, place] of places) {
      member.toggleAttribute("hidden", chosen.some((wanted, axis) => differs(place[axis], wanted)));
    }
    for (const group of groups) {
      group.toggleAttribute("hidden", ![...group.querySelectorAll("[data-f]")].some(seen));
    }
    scaleBars();
    areas.forEach(drawFront);
    if (!form) return;
    const rows = members.filter((member) => member.id.startsWith("row-"));
    form.querySelector("[role=status]").textContent =
      `${rows.filter(seen).length} of ${rows.length} rows shown`;
  }

  function scaleBars() {
    for (const panel of document.querySelectorAll(".panel")) {
      const bars = [...panel.querySelectorAll("[data-high]")].filter(seen);
      const highs = bars.map((bar) => Number(bar.dataset.high));
      panel.style.setProperty("--max", highs.length ? Math.max(...highs) : 1);
    }
  }

  // Where the right or the lower side is the better one, the plot is turned around for the search.
  function drawFront(area) {
    const better = area.dataset.better || "left up";
    const turnX = (value) => better.includes("right") ? 100 - value : value;
    const turnY = (value) => better.includes("down") ? 100 - value : value;
    const front = area.querySelector(".front");
    front.replaceChildren();
    const line = (x1, y1, x2, y2) => drawLine(front, turnX(x1), turnY(y1), turnX(x2), turnY(y2));
    const at = (mark, name) => parseFloat(mark.querySelector(".disc").getAttribute(name));
    const marks = [...area.querySelectorAll(".mark")].filter(seen)
      .map((mark) => ({ mark, x: turnX(at(mark, "cx")), y: turnY(at(mark, "cy")) }))
      .sort((one, other) => one.x - other.x || one.y - other.y);
    for (const mark of area.querySelectorAll(".on-front")) mark.classList.remove("on-front");
    let last = null;
    for (const { mark, x, y } of marks) {
      if (last && y >= last.y) continue;
      mark.classList.add("on-front");
      line(x, last ? last.y : 100, x, y);
      if (last) line(last.x, last.y, x, last.y);
      last = { x, y };
    }
    if (last) line(last.x, last.y, 100, last.y);
  }

  function drawLine(parent, x1, y1, x2, y2) {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const ends = { x1, y1, x2, y2 };
    for (const name in ends) drawn.setAttribute(name, `${ends[name]}%`);
    parent.append(drawn);
  }

  // The choice stands in the address, so that a link shows what its sender saw.
  function remember() {
    const named = selects.map((select) => [select.name, select.selectedOptions[0].text]);
    history.replaceState(null, "", `#${new URLSearchParams(named)}`);
  }

  function recall() {
    const named = new URLSearchParams(location.hash.slice(1));
    const isNamed = selects.some((select) => named.has(select.name));
    for (const select of selects) {
      const wanted = [...select.options].find((option) => option.text === named.get(select.name));
      select.value = isNamed ? (wanted ? wanted.value : "") : select.dataset.initial;
    }
  }

  if (form) {
    form.addEventListener("change", () => { filter(); remember(); });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const select of selects) select.value = "";
      filter();
      remember();
    });
    window.addEventListener("hashchange", () => {
      if (!location.hash.includes("=")) return;
      recall();
      filter();
    });
    recall();
    form.hidden = false;
  }
  filter();

  for (const area of areas) tellOfMarks(area);

  function tellOfMarks(area) {
    const tip = area.querySelector(".tip");

    function show(mark) {
      const isBest = mark.classList.contains("on-front");
      tip.textContent = mark.dataset.text + (isBest ? "; on the Pareto front" : "");
      tip.hidden = false;
      const disc = mark.querySelector(".disc").getBoundingClientRect();
      const frame = area.getBoundingClientRect();
      const middle = disc.left + disc.width / 2 - frame.left - tip.offsetWidth / 2;
      const above = disc.top - frame.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(0, Math.min(middle, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${above > 0 ? above : disc.bottom - frame.top + 8}px`;
    }

    const hide = () => { tip.hidden = true; };
    for (const mark of area.querySelectorAll(".mark")) {
      for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => show(mark));
      for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, hide);
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  }
})();
