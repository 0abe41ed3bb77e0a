const populations = data.populations, sampled = populations.filter(p => p.kind !== "searched");
const color = p => data.palette[populations.indexOf(p) % data.palette.length];
const dash = p => dashes[populations.indexOf(p) % 4];

const legend = (list, lines) => `<div class="legend">${list.map(p => `<span><svg width="26" height="10">${lines
  ? `<line x1="0" x2="26" y1="5" y2="5" stroke="${color(p)}" stroke-width="2" stroke-dasharray="${dash(p)}"/>`
  : mark(populations.indexOf(p), 13, 5, color(p))}</svg>${safe(p.name)}</span>`).join("")}</div>`;

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

function networks() {
  const rows = populations.flatMap(p => p.members.map(m => ({ p, m, text: [p.name, m.id, ...Object.entries(m.p).map(([k, v]) => `${k}=${v}`), ...m.s.map(describe)].join(" ").toLowerCase() })));
  const measures = ["flops", "params", "acts"].filter(n => rows.some(r => n in r.m.c));
  const columns = [["population", r => r.p.name], ["network", r => r.m.id], ["error (%)", r => r.m.e], ...measures.map(n => [n, r => r.m.c[n]]), ["stages", r => r.m.s.reduce((d, s) => d + s[1], 0)]];
  const widest = Math.max(1, ...rows.flatMap(r => r.m.s.map(s => s[2] || 1))), deepest = Math.max(1, ...rows.map(r => r.m.s.reduce((d, s) => d + s[1], 0)));
  sortable(at("networks"), columns.map(([name, get], i) => ({ name, get, number: i > 1 && i < columns.length - 1,
    cell: i === columns.length - 1 ? r => drawing(r.m.s, widest, deepest) : name === "error (%)" ? r => percent(r.m.e) : r => short(get(r)) })), rows,
    { order: 2, search: at("search"), count: at("count"), noun: "networks", choose: r => details(r.p, r.m) });
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
