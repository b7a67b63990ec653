"use strict";
// Shows under the pointer what a mark says of itself, or what each line of a chart is at that place.
const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");

function number(value, style) {
  return style === "percent" ? `${(100 * value).toFixed(1)}\u00a0%` : value.toPrecision(3);
}

// A line's corners in the coordinates of the chart's inner area.
function corners(path) {
  return (path.corners ??= [...path.getAttribute("d").matchAll(/(-?[\d.]+(?:e-?\d+)?),(-?[\d.]+(?:e-?\d+)?)/g)].map((m) => [+m[1], +m[2]]));
}

function along(svg, event) {
  const lines = [...svg.querySelectorAll(".mark-line path[data-v]")];
  if (!svg.dataset.x || !lines.length) return "";
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(lines[0].getScreenCTM().inverse());
  const [width, height] = svg.dataset.size.split(" ").map(Number);
  if (place.x < -3 || place.x > width + 3 || place.y < 0 || place.y > height) return "";
  const at = ([low, high], part) => low + (high - low) * part;
  const [x, y] = ["x", "y"].map((key) => svg.dataset[key].split(" ").map(Number));
  let nearest = null;
  const rows = lines.map((line) => {
    const corner = corners(line).reduce((best, next) => (Math.abs(next[0] - place.x) < Math.abs(best[0] - place.x) ? next : best));
    nearest ??= corner[0];
    return `${line.dataset.v}: ${number(at(y, 1 - corner[1] / height), svg.dataset.style)}`;
  });
  return [`${svg.dataset.name} ${+at(x, nearest / width).toPrecision(3)}`, ...rows].join("\n");
}

function show(event) {
  const svg = event.target.closest(".panels svg");
  const mark = event.target.closest("[data-v]");
  tip.textContent = mark && !mark.closest(".mark-line") ? mark.dataset.v : svg ? along(svg, event) : "";
  tip.hidden = !tip.textContent;
  if (tip.hidden) return;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${Math.max(4, event.clientY - height - 10)}px`;
}

addEventListener("pointermove", show);
addEventListener("pointerdown", show);
