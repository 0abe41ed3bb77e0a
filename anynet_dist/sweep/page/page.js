"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const populations = data.populations, sampled = populations.filter(p => p.kind !== "searched");
const color = p => data.palette[populations.indexOf(p) % data.palette.length];
const dashes = ["", "6 3", "2 3", "8 3 2 3"], dash = p => dashes[populations.indexOf(p) % 4];
const at = id => document.getElementById(id);

// Every text from the data goes through here: names are not ours.
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

const legend = (list, lines) => `<div class="legend">${list.map(p => `<span><svg width="26" height="10">${lines
  ? `<line x1="0" x2="26" y1="5" y2="5" stroke="${color(p)}" stroke-width="2" stroke-dasharray="${dash(p)}"/>`
  : mark(populations.indexOf(p), 13, 5, color(p))}</svg>${safe(p.name)}</span>`).join("")}</div>`;

// ---- sections

function table(head, rows) {
  const cell = c => Array.isArray(c) ? `<td class="${c[1]}">${c[0]}</td>` : `<td>${c}</td>`;
  const side = i => Array.isArray(rows[0]?.[i]) ? ` class="${rows[0][i][1]}"` : "";
  return `<thead><tr>${head.map((h, i) => `<th${side(i)}>${safe(h)}</th>`).join("")}</tr></thead><tbody>${rows.map(r => `<tr>${r.map(cell).join("")}</tr>`).join("")}</tbody>`;
}

function overview() {
  const names = populations.map(p => p.name).join(", ");
  document.title = at("title").textContent = names;
  const trained = populations.reduce((n, p) => n + p.trained, 0);
  at("lead").textContent = `${trained} trained networks. Lower error is better throughout.`;
  const origin = p => Object.entries(p.origin).filter(([k]) => k !== "sha256").map(([k, v]) => `${safe(k)}: ${safe(v)}`).join("; ");
  at("populations").innerHTML = table(["population", "kind", "trained", "lowest error", "median", "mean", "seed noise", "how it was made"],
    populations.map(p => [safe(p.name), safe(p.kind), [`${p.trained} of ${p.n}`, "number"], [percent(p.min), "number"], [percent(p.median), "number"],
      [percent(p.mean), "number"], [p.noise ? `${percent(p.noise.median_sd)} (${p.noise.n} networks)` : "not repeated", "number"], [origin(p), "wrap"]]));
  const words = data.comparisons.map(c => `<li><b>${safe(c.a)} and ${safe(c.b)}.</b> ${safe(c.verdict)}</li>`);
  for (const p of populations.filter(p => p.kind === "searched"))
    words.push(`<li><b>${safe(p.name)} was searched, not sampled.</b> It stays out of EDFs and comparisons: its networks were steered towards low errors.</li>`);
  at("verdicts").innerHTML = words.join("");
}

function distributions() {
  const charts = [];
  if (sampled.length) {
    const line = (p, points, more) => ({ points, color: color(p), dash: dash(p), ...more });
    const x = { label: "top-1 error (%)" }, y = { label: "share of networks", range: [0, 1] };
    charts.push(chart({ title: "EDF of error", note: "with 95 % bands; higher and further left is better", x, y,
      series: sampled.map(p => line(p, p.edf, { kind: "step", band: p.edf.map(([e], i) => [e, ...p.band[i]]) })) }));
    const equal = sampled.filter(p => p.normalised);
    charts.push(chart({ title: "EDF at equal multiply-adds", note: equal.map(p => `${p.name}: ${p.normalised_left_out} left out`).join("; "), x, y,
      series: equal.map(p => line(p, p.normalised, { kind: "step" })) }));
    charts.push(chart({ title: "Best of k networks", note: "mean, with 5th and 95th percentiles", x: { label: "networks trained (k)", log: true }, y: { label: "lowest error (%)" },
      series: sampled.map(p => line(p, p.search.map(([k, e]) => [k, e]), { band: p.search.map(([k, , l, h]) => [k, l, h]) })) }));
    at("distributions").innerHTML = charts.join("");
    at("distributions").insertAdjacentHTML("beforebegin", legend(sampled, true));
  }
  if (data.comparisons.length)
    at("comparisons").innerHTML = table(["a", "b", "KS distance", "p", "critical", "detectable (80 %)", "medians, a less b", "95 % interval"],
      data.comparisons.map(c => [safe(c.a), safe(c.b), [c.ks.toFixed(3), "number"], [c.p < 0.001 ? "< 0.001" : c.p.toFixed(3), "number"], [c.critical.toFixed(3), "number"],
        [c.detectable80 == null ? "none" : c.detectable80.toFixed(2), "number"], [percent(c.median_difference), "number"], [c.interval.map(percent).join(" to "), "number"]]));
}

const valueOf = (m, name) => m.c[name] ?? m.p[name];
const allColumns = () => {
  const names = new Set();
  for (const p of populations) for (const m of p.members) for (const group of [m.c, m.p])
    for (const [k, v] of Object.entries(group)) if (typeof v === "number") names.add(k);
  return [...names];
};

function dependence() {
  const select = at("column"), names = allColumns();
  select.innerHTML = names.map(n => `<option>${safe(n)}</option>`).join("");
  const draw = () => {
    const name = select.value || names[0];
    if (!name) return;
    const series = populations.map((p, i) => ({ kind: "dots", shape: i, color: color(p),
      points: p.members.filter(m => m.e != null && typeof valueOf(m, name) === "number").map(m => [valueOf(m, name), m.e, `${p.name} ${m.id}: ${m.e} %`]) })).filter(s => s.points.length);
    const bands = sampled.filter(p => p.ranges[name]).map(p => ({ ...p.ranges[name], color: color(p) }));
    const words = sampled.filter(p => p.ranges[name]).map(p => `${p.name}: best range ${short(p.ranges[name].low)} to ${short(p.ranges[name].high)}`);
    at("dependence").innerHTML = chart({ title: `Error against ${name}`, note: words.join("; "), x: { label: name, log: name in (populations[0].members[0]?.c || {}) }, y: { label: "top-1 error (%)" }, series, bands });
  };
  select.addEventListener("change", draw);
  draw();
  at("dependence").insertAdjacentHTML("beforebegin", legend(populations, false));
  const rows = sampled.flatMap(p => Object.entries(p.correlations).map(([n, c]) => [safe(p.name), safe(n), [c.rho == null ? "" : c.rho.toFixed(2), "number"], [c.p == null ? "" : c.p < 0.001 ? "< 0.001" : c.p.toFixed(3), "number"], [c.n, "number"]]));
  if (rows.length) at("correlations").innerHTML = table(["population", "measure", "rank correlation with error", "p", "networks"], rows);
}

function fronts() {
  const charts = [], find = (p, id) => p.members.find(m => m.id === id);
  for (const measure of ["flops", "params"]) {
    const series = populations.flatMap((p, i) => {
      const points = p.members.filter(m => m.e != null && m.c[measure] != null).sort((a, b) => a.c[measure] - b.c[measure] || a.e - b.e);
      const front = []; let best = Infinity;
      for (const m of points) if (m.e < best) { best = m.e; front.push([m.c[measure], m.e]); }
      return points.length ? [{ kind: "dots", shape: i, color: color(p), points: points.map(m => [m.c[measure], m.e, `${m.id}: ${m.e} %`]) }, { points: front, color: color(p), dash: dash(p), kind: "step" }] : [];
    });
    charts.push(chart({ title: `Pareto front: error against ${measure}`, x: { label: measure, log: true }, y: { label: "top-1 error (%)" }, series }));
  }
  const curves = [];
  for (const p of populations) {
    const done = p.members.filter(m => m.curve.length > 1).sort((a, b) => a.e - b.e);
    const chosen = done.length > 6 ? [...done.slice(0, 3), ...done.slice(-3)] : done;
    for (const m of chosen) curves.push({ points: m.curve, color: color(p), dash: dash(p) });
  }
  charts.push(chart({ title: "Learning curves", note: "the three best and the three worst of each population", x: { label: "epoch" }, y: { label: "top-1 error (%)" }, series: curves }));
  at("fronts").innerHTML = charts.join("");
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

function networks() {
  const rows = populations.flatMap(p => p.members.map(m => ({ p, m, text: [p.name, m.id, ...Object.entries(m.p).map(([k, v]) => `${k}=${v}`), ...m.s.map(describe)].join(" ").toLowerCase() })));
  const measures = ["flops", "params", "acts"].filter(n => rows.some(r => n in r.m.c));
  const columns = [["population", r => r.p.name], ["network", r => r.m.id], ["error (%)", r => r.m.e], ...measures.map(n => [n, r => r.m.c[n]]), ["stages", r => r.m.s.reduce((d, s) => d + s[1], 0)]];
  const widest = Math.max(1, ...rows.flatMap(r => r.m.s.map(s => s[2] || 1))), deepest = Math.max(1, ...rows.map(r => r.m.s.reduce((d, s) => d + s[1], 0)));
  let order = 2, down = false;
  const body = document.createElement("tbody");
  at("networks").innerHTML = `<thead><tr>${columns.map(([n], i) => `<th aria-sort="none"${i > 1 && i < columns.length - 1 ? ' class="number"' : ""}><button type="button" data-column="${i}">${safe(n)}</button></th>`).join("")}</tr></thead>`;
  at("networks").append(body);
  for (const r of rows) {
    r.row = document.createElement("tr");
    r.row.tabIndex = 0;
    r.row.innerHTML = columns.map(([n, get], i) => i === columns.length - 1 ? `<td>${drawing(r.m.s, widest, deepest)}</td>` : i > 1 ? `<td class="number">${n === "error (%)" ? percent(r.m.e) : short(get(r))}</td>` : `<td>${safe(get(r))}</td>`).join("");
    const show = () => { for (const other of rows) other.row.classList.remove("chosen"); r.row.classList.add("chosen"); details(r.p, r.m); };
    r.row.addEventListener("click", show);
    r.row.addEventListener("keydown", e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); show(); } });
  }
  const fill = () => {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean), get = columns[order][1];
    const kept = rows.filter(r => words.every(w => r.text.includes(w)));
    kept.sort((a, b) => {
      const [u, v] = [get(a), get(b)];
      if (u == null || v == null) return (u == null) - (v == null);
      return (typeof u === "number" ? u - v : String(u).localeCompare(String(v))) * (down ? -1 : 1);
    });
    body.replaceChildren(...kept.map(r => r.row));
    at("count").textContent = `${kept.length} of ${rows.length} networks`;
    at("networks").querySelectorAll("th").forEach((th, i) => th.setAttribute("aria-sort", i === order ? (down ? "descending" : "ascending") : "none"));
  };
  at("networks").querySelectorAll("button").forEach(b => b.addEventListener("click", () => { const c = +b.dataset.column; down = c === order ? !down : false; order = c; fill(); }));
  at("search").addEventListener("input", fill);
  fill();
}

function details(p, m) {
  const panel = at("details"), list = group => Object.entries(group).map(([k, v]) => `${k}: ${typeof v === "number" ? +v.toPrecision(6) : v}`).join("\n");
  panel.hidden = false;
  panel.innerHTML = `<h3>${safe(p.name)} ${safe(m.id)}</h3><p>${m.e == null ? "not trained yet" : `top-1 error ${percent(m.e)} %${m.errors.length > 1 ? ` (${m.errors.map(percent).join(", ")})` : ""}`}</p>` +
    `<pre>${safe(m.s.map((s, i) => `stage ${i + 1}: ${describe(s)}`).join("\n"))}</pre><pre>${safe(list(m.p))}\n${safe(list(m.c))}</pre>` +
    (m.curve.length > 1 ? `<div class="charts">${chart({ title: "Learning curve", x: { label: "epoch" }, y: { label: "top-1 error (%)" }, series: [{ points: m.curve, color: color(p) }] })}</div>` : "") +
    (p.kind === "imported" ? "" : `<p class="note">Its run config is configs/${safe(m.id)}.yaml of the population.</p>`);
  panel.scrollIntoView({ block: "nearest" });
}

overview();
distributions();
dependence();
fronts();
networks();
at("definitions").innerHTML = Object.entries(data.definitions).map(([k, v]) => `<dt>${safe(k)}</dt><dd>${safe(v)}</dd>`).join("");
