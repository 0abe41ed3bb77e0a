"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const dashes = ["", "6 3", "2 3", "8 3 2 3"];

// Every text from the data goes through here: a name may look like markup.
const safe = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const short = value => {
  if (typeof value !== "number") return safe(value ?? "");
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e4]])
    if (Math.abs(value) >= size) return +(value / (unit === "k" ? 1e3 : size)).toPrecision(3) + unit;
  return String(+value.toPrecision(4));
};
const percent = value => value == null ? "" : value.toFixed(2);

// ---- charts: a box with axes, and series of lines, bands and points in it

const W = 520, H = 300, LEFT = 46, RIGHT = 12, TOP = 10, BOTTOM = 38;

function ticks(low, high) {
  const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
}

// 1, 2, 5, 10, 20, ... where they are few, else powers of ten; `low` and `high` are logarithms.
function logTicks(low, high) {
  const found = [];
  for (let e = Math.floor(low); e <= Math.ceil(high); e++)
    for (const m of high - low > 3 ? [1] : high - low > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7])
      if (Math.log10(m) + e >= low - 1e-9 && Math.log10(m) + e <= high + 1e-9) found.push(Math.log10(m) + e);
  return found;
}

function chart({ title, note = "", x, y, series, bands = [] }) {
  const all = series.flatMap(s => s.points.concat(s.band ? s.band.flatMap(([a, l, h]) => [[a, l], [a, h]]) : []));
  if (!all.length) return "";
  const range = (values, log) => {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
    return [low, high];
  };
  const logX = x.log && Math.min(...all.map(p => p[0])) > 0;
  const fx = v => logX ? Math.log10(v) : v;
  const [x0, x1] = range(all.map(p => fx(p[0]))), [y0, y1] = y.range || range(all.map(p => p[1]));
  const px = v => LEFT + (fx(v) - x0) / (x1 - x0) * (W - LEFT - RIGHT);
  const py = v => H - BOTTOM - (v - y0) / (y1 - y0) * (H - TOP - BOTTOM);
  const path = (points, step) => points.map(([a, b], i) =>
    (i ? (step ? `H${px(a).toFixed(1)}V${py(b).toFixed(1)}` : `L${px(a).toFixed(1)} ${py(b).toFixed(1)}`) : `M${px(a).toFixed(1)} ${py(b).toFixed(1)}`)).join("");
  let inside = "";
  for (const v of (logX ? logTicks : ticks)(x0, x1)) {
    const place = LEFT + (v - x0) / (x1 - x0) * (W - LEFT - RIGHT);
    inside += `<line class="axis" x1="${place}" x2="${place}" y1="${TOP}" y2="${H - BOTTOM}" opacity=".5"/><text x="${place}" y="${H - BOTTOM + 15}" text-anchor="middle">${short(logX ? 10 ** v : v)}</text>`;
  }
  for (const v of ticks(y0, y1))
    inside += `<line class="axis" x1="${LEFT}" x2="${W - RIGHT}" y1="${py(v)}" y2="${py(v)}" opacity=".5"/><text x="${LEFT - 6}" y="${py(v) + 4}" text-anchor="end">${short(v)}</text>`;
  for (const b of bands) {
    const [a, c] = [Math.max(b.low, logX ? 10 ** x0 : x0), Math.min(b.high, logX ? 10 ** x1 : x1)];
    inside += `<rect x="${px(a)}" width="${Math.max(2, px(c) - px(a))}" y="${TOP}" height="${H - TOP - BOTTOM}" fill="${b.color}" opacity=".15"/><line x1="${px(b.median)}" x2="${px(b.median)}" y1="${TOP}" y2="${H - BOTTOM}" stroke="${b.color}" stroke-dasharray="3 3"/>`;
  }
  for (const s of series) {
    if (s.band) {
      const up = s.band.map(([a, , h]) => [a, h]), down = s.band.map(([a, l]) => [a, l]).reverse();
      inside += `<path d="${path(up)}L${path(down).slice(1)}Z" fill="${s.color}" opacity=".15"/>`;
    }
    if (s.kind === "dots") inside += s.points.map(([a, b, label], i) => mark(s.shape || 0, px(a), py(b), s.color, label)).join("");
    else inside += `<path d="${path(s.points, s.kind === "step")}" fill="none" stroke="${s.color}" stroke-width="1.8" stroke-dasharray="${s.dash || ""}"/>`;
  }
  inside += `<text x="${(LEFT + W - RIGHT) / 2}" y="${H - 5}" text-anchor="middle">${safe(x.label)}</text><text transform="translate(11 ${(TOP + H - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">${safe(y.label)}</text>`;
  return `<figure><figcaption>${safe(title)}<small>${safe(note)}</small></figcaption><svg viewBox="0 0 ${W} ${H}" width="100%" role="img" aria-label="${safe(title)}">${inside}</svg></figure>`;
}

function mark(shape, x, y, fill, label) {
  const [a, b] = [x.toFixed(1), y.toFixed(1)], tip = label ? `<title>${safe(label)}</title>` : "";
  const forms = [
    `<circle cx="${a}" cy="${b}" r="3"`, `<rect x="${(x - 2.7).toFixed(1)}" y="${(y - 2.7).toFixed(1)}" width="5.4" height="5.4"`,
    `<path d="M${a} ${(y - 3.6).toFixed(1)}l3.5 6h-7z"`, `<path d="M${a} ${(y - 4).toFixed(1)}l3.6 4l-3.6 4l-3.6-4z"`];
  return `${forms[shape % 4]} fill="${fill}" opacity=".65">${tip}</${forms[shape % 4].slice(1, forms[shape % 4].indexOf(" "))}>`;
}

// ---- tables

function table(head, rows) {
  const cell = c => Array.isArray(c) ? `<td class="${c[1]}">${c[0]}</td>` : `<td>${c}</td>`;
  const side = i => Array.isArray(rows[0]?.[i]) ? ` class="${rows[0][i][1]}"` : "";
  return `<thead><tr>${head.map((h, i) => `<th${side(i)}>${safe(h)}</th>`).join("")}</tr></thead><tbody>${rows.map(r => `<tr>${r.map(cell).join("")}</tr>`).join("")}</tbody>`;
}
