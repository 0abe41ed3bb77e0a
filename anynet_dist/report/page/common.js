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

function chart({ title, note = "", x, y, series, bands = [], marks = [] }) {
  const all = series.flatMap(s => s.points.concat(s.band ? s.band.flatMap(([a, l, h]) => [[a, l], [a, h]]) : []));
  if (!all.length) return "";
  const range = values => {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - 1, high + 1];
    return [low, high];
  };
  const logX = x.log && Math.min(...all.map(p => p[0])) > 0, logY = y.log && Math.min(...all.map(p => p[1])) > 0;
  const fx = v => logX ? Math.log10(v) : v, fy = v => logY ? Math.log10(v) : v;
  const [x0, x1] = range(all.map(p => fx(p[0]))), [y0, y1] = y.range || range(all.map(p => fy(p[1])));
  const px = v => LEFT + (fx(v) - x0) / (x1 - x0) * (W - LEFT - RIGHT);
  const py = v => H - BOTTOM - (fy(v) - y0) / (y1 - y0) * (H - TOP - BOTTOM);
  const path = (points, step) => points.map(([a, b], i) =>
    (i ? (step ? `H${px(a).toFixed(1)}V${py(b).toFixed(1)}` : `L${px(a).toFixed(1)} ${py(b).toFixed(1)}`) : `M${px(a).toFixed(1)} ${py(b).toFixed(1)}`)).join("");
  let inside = "";
  for (const v of (logX ? logTicks : ticks)(x0, x1)) {
    const place = LEFT + (v - x0) / (x1 - x0) * (W - LEFT - RIGHT);
    inside += `<line class="axis" x1="${place}" x2="${place}" y1="${TOP}" y2="${H - BOTTOM}" opacity=".5"/><text x="${place}" y="${H - BOTTOM + 15}" text-anchor="middle">${short(logX ? 10 ** v : v)}</text>`;
  }
  for (const v of (logY ? logTicks(y0, y1).map(v => 10 ** v) : ticks(y0, y1)))
    inside += `<line class="axis" x1="${LEFT}" x2="${W - RIGHT}" y1="${py(v)}" y2="${py(v)}" opacity=".5"/><text x="${LEFT - 6}" y="${py(v) + 4}" text-anchor="end">${short(v)}</text>`;
  for (const b of bands) {
    const [a, c] = [Math.max(b.low, logX ? 10 ** x0 : x0), Math.min(b.high, logX ? 10 ** x1 : x1)];
    inside += `<rect x="${px(a)}" width="${Math.max(2, px(c) - px(a))}" y="${TOP}" height="${H - TOP - BOTTOM}" fill="${b.color}" opacity=".15"/><line x1="${px(b.median)}" x2="${px(b.median)}" y1="${TOP}" y2="${H - BOTTOM}" stroke="${b.color}" stroke-dasharray="3 3"/>`;
  }
  for (const m of marks.filter(m => fx(m) >= x0 && fx(m) <= x1))
    inside += `<line class="restart" x1="${px(m)}" x2="${px(m)}" y1="${TOP}" y2="${H - BOTTOM}"><title>resumed</title></line>`;
  for (const s of series) {
    if (s.band) {
      const up = s.band.map(([a, , h]) => [a, h]), down = s.band.map(([a, l]) => [a, l]).reverse();
      inside += `<path d="${path(up)}L${path(down).slice(1)}Z" fill="${s.color}" opacity=".15"/>`;
    }
    if (s.kind === "dots") inside += s.points.map(([a, b, label], i) => mark(s.shape || 0, px(a), py(b), s.color, label)).join("");
    else inside += `<path d="${path(s.points, s.kind === "step")}" fill="none" stroke="${s.color}" stroke-width="${s.thin ? 1 : 1.8}" opacity="${s.thin ? 0.45 : 1}" stroke-dasharray="${s.dash || ""}"/>`;
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

// A network as its stages: a bar each, as long as it is deep, as high as it is wide.
function drawing(stages, widest, deepest) {
  if (!stages.length) return "";
  const unit = Math.max(1.5, Math.min(6, 150 / deepest));
  let x = 0, bars = "";
  for (const [block, depth, width, ratio, group] of stages) {
    const high = width == null ? 10 : Math.max(2, 22 * Math.sqrt(width / widest)), long = Math.max(2, depth * unit);
    bars += `<rect x="${x.toFixed(1)}" y="${(24 - high) / 2}" width="${long.toFixed(1)}" height="${high.toFixed(1)}" rx="1" fill="currentColor" opacity=".55"><title>${safe(describe([block, depth, width, ratio, group]))}</title></rect>`;
    x += long + 2;
  }
  return `<svg width="${Math.ceil(x)}" height="24" role="img" aria-label="${safe(stages.map(describe).join(", "))}">${bars}</svg>`;
}
const describe = ([block, depth, width, ratio, group]) => `${depth} x ${block}${width == null ? "" : " " + width}${ratio == null || ratio === 1 ? "" : ", b " + ratio}${group == null ? "" : ", g " + group}`;

// ---- tables

function table(head, rows) {
  const cell = c => Array.isArray(c) ? `<td class="${c[1]}">${c[0]}</td>` : `<td>${c}</td>`;
  const side = i => Array.isArray(rows[0]?.[i]) ? ` class="${rows[0][i][1]}"` : "";
  return `<thead><tr>${head.map((h, i) => `<th${side(i)}>${safe(h)}</th>`).join("")}</tr></thead><tbody>${rows.map(r => `<tr>${r.map(cell).join("")}</tr>`).join("")}</tbody>`;
}

// A table that its head's buttons sort: columns {name, get, cell, number}, rows with `text` to be searched. `choose` makes
// rows that are clicked, or chosen by Enter, show more of themselves.
function sortable(element, columns, rows, { order = 0, down = false, search = null, count = null, noun = "rows", choose = null } = {}) {
  element.innerHTML = `<thead><tr>${columns.map((c, i) => `<th aria-sort="none"${c.number ? ' class="number"' : ""}><button type="button" data-column="${i}">${safe(c.name)}</button></th>`).join("")}</tr></thead>`;
  const body = element.appendChild(document.createElement("tbody"));
  for (const r of rows) {
    r.row = document.createElement("tr");
    r.row.innerHTML = columns.map(c => `<td${c.number ? ' class="number"' : c.wrap ? ' class="wrap"' : ""}>${c.cell ? c.cell(r) : short(c.get(r))}</td>`).join("");
    if (!choose) continue;
    r.row.tabIndex = 0;
    r.row.className = "choice";
    const show = () => { for (const other of rows) other.row.classList.remove("chosen"); r.row.classList.add("chosen"); choose(r); };
    r.row.addEventListener("click", show);
    r.row.addEventListener("keydown", e => { if (e.target === r.row && (e.key === "Enter" || e.key === " ")) { e.preventDefault(); show(); } });
  }
  const fill = () => {
    const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [], get = columns[order].get;
    const kept = rows.filter(r => words.every(w => r.text.includes(w)));
    kept.sort((a, b) => {
      const [u, v] = [get(a), get(b)];
      if (u == null || v == null) return (u == null) - (v == null);
      return (typeof u === "number" ? u - v : String(u).localeCompare(String(v))) * (down ? -1 : 1);
    });
    body.replaceChildren(...kept.map(r => r.row));
    if (count) count.textContent = `${kept.length} of ${rows.length} ${noun}`;
    element.querySelectorAll("th").forEach((th, i) => th.setAttribute("aria-sort", i === order ? (down ? "descending" : "ascending") : "none"));
  };
  element.querySelectorAll("button").forEach(b => b.addEventListener("click", () => { const c = +b.dataset.column; down = c === order ? !down : false; order = c; fill(); }));
  if (search) search.addEventListener("input", fill);
  fill();
}
