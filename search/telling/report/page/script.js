"use strict";
// The figure: point, tap or use the arrow keys; the panel tells what is known about the plan.
(() => {
  const panels = JSON.parse(document.getElementById("panels").textContent);
  const chart = document.querySelector(".chart");
  if (chart) {
    const panel = document.querySelector(".panel");
    const order = new Map(panels.map((entry, index) => [entry.trial, index]));
    const make = (name, text, kind) => {
      const element = document.createElement(name);
      if (text !== undefined) element.textContent = text;
      if (kind) element.className = kind;
      return element;
    };
    let current = order.get(Number(chart.querySelector(".selected").dataset.trial));

    const show = (index) => {
      current = index;
      const entry = panels[index];
      for (const point of chart.querySelectorAll("[data-trial]")) {
        point.classList.toggle("selected", Number(point.dataset.trial) === entry.trial);
      }
      panel.querySelector("h3").textContent = entry.title;
      panel.querySelector(".tags").replaceChildren(
        ...entry.tags.map((tag) => make("span", tag, "tag")));
      panel.querySelector("dl").replaceChildren(...entry.rows.map(([label, value, note]) => {
        const row = make("div");
        const figure = make("dd", note ? value + " " : value);
        if (note) figure.append(make("small", note));
        row.append(make("dt", label), figure);
        return row;
      }));
    };

    const nearest = (event) => {
      const svg = [...chart.querySelectorAll("svg.wide, svg.narrow")].find((s) => s.clientWidth);
      const box = svg.getBoundingClientRect();
      let best = null;
      for (const point of svg.querySelectorAll("[data-trial]")) {
        const { e, f } = point.transform.baseVal[0].matrix;
        const scale = box.width / svg.viewBox.baseVal.width;
        const distance = Math.hypot(
          box.left + e * scale - event.clientX, box.top + f * scale - event.clientY);
        if (best === null || distance < best.distance) {
          best = { distance, index: order.get(Number(point.dataset.trial)) };
        }
      }
      return best.distance < 36 ? best.index : null;
    };

    const point = (event) => {
      const index = nearest(event);
      if (index !== null && index !== current) show(index);
    };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("click", point);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(Math.min(Math.max(current + step, 0), panels.length - 1));
    });
  }

  for (const button of document.querySelectorAll(".command button")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
    });
  }
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
