const runs = data.runs, single = runs.length === 1;
const hidden = new Set();
const score = v => v == null ? "" : (100 * v).toFixed(2) + " %";
const metricName = { top1: "top-1" }[runs[0].metric] || runs[0].metric;
const color = i => data.palette[i % data.palette.length];
const dash = i => dashes[Math.floor(i / data.palette.length) % dashes.length];
// With one run the kinds of curves have colours and dashes; with several each run has, and training is thin and pale.
const KINDS = { training: 0, validation: 1, average: 2 };
const kindName = { training: "training", validation: "validation", average: "moving average" };

function overview() {
  const title = single ? runs[0].name : `${runs.length} runs`;
  document.title = at("title").textContent = title;
  const best = runs.filter(r => r.summary.val != null).sort((a, b) => b.summary.val - a.summary.val)[0];
  const lead = [];
  if (single) lead.push(`${runs[0].state}${runs[0].reason ? `: ${runs[0].reason}` : ""}.`);
  if (best) lead.push(`Best validation ${metricName} ${score(best.summary.val)}${single ? "" : ` (${best.name})`}, after epoch ${best.summary["best epoch"]}.`);
  if (single && runs[0].summary.test != null) lead.push(`Test ${metricName} ${score(runs[0].summary.test)}.`);
  if (single && runs[0].restarts.length) lead.push(`Resumed ${runs[0].restarts.length} times.`);
  at("lead").textContent = lead.join(" ");
  const rows = runs.map((r, i) => ({ r, i, s: r.summary, text: [r.name, ...Object.values(r.summary)].join(" ").toLowerCase() }));
  const time = h => h == null ? "" : `${Math.floor(h)}:${String(Math.floor(h * 60) % 60).padStart(2, "0")}:${String(Math.round(h * 3600) % 60).padStart(2, "0")}`;
  const scores = ["val", "test"], texts = ["state", "device", "precision"];
  const columns = Object.keys(runs[0].summary).filter(name => rows.some(row => row.s[name] != null)).map(name => ({
    name: scores.includes(name) ? `${{ val: "best validation", test: "test" }[name]} ${metricName}` : name, get: row => row.s[name],
    cell: scores.includes(name) ? row => score(row.s[name]) : name === "hours" ? row => time(row.s[name]) : undefined, number: !texts.includes(name) }));
  const box = row => single ? safe(row.r.name) : `<label><input type="checkbox" data-run="${row.i}" checked> <svg width="22" height="10"><line x1="0" x2="22" y1="5" y2="5" stroke="${color(row.i)}" stroke-width="2.5" stroke-dasharray="${dash(row.i)}"/></svg> ${safe(row.r.name)}</label>`;
  sortable(at("runs"), [{ name: "run", get: row => row.r.name, cell: box }, ...columns], rows, { search: at("search"), count: at("count"), noun: "runs" });
  at("filter").hidden = single;
  at("runs").addEventListener("change", e => { const i = +e.target.dataset.run; e.target.checked ? hidden.delete(i) : hidden.add(i); curves(); costs(); });
}

function curves() {
  const axis = +at("axis").value, label = at("axis").selectedOptions[0].textContent;
  const shown = runs.map((r, i) => [r, i]).filter(([, i]) => !hidden.has(i));
  const lines = name => shown.flatMap(([r, i]) => Object.entries(r.curves[name] || {}).map(([kind, values]) => ({
    points: values.map((v, at) => [r.places[kind][axis][at], v]).filter(p => p[1] != null), color: single ? color(KINDS[kind]) : color(i), dash: single ? dashes[KINDS[kind]] : dash(i),
    thin: !single && kind === "training" && name !== "lr" && Object.keys(r.curves[name]).length > 1 })));
  const marks = shown.flatMap(([r]) => r.restarts.map(at => at[axis]));
  const draw = (name, title, y = {}) => chart({ title, x: { label }, y: { label: title, ...y }, series: lines(name), marks });
  at("curves").innerHTML = [draw("loss", "loss", { log: at("log").checked }), draw("score", metricName), ...data.charts.map(([key, title]) => draw(key, title))].join("");
  const kinds = Object.keys(KINDS).filter(k => shown.some(([r]) => ["loss", "score"].some(c => r.curves[c]?.[k])));
  at("legend").innerHTML = single ? kinds.map(k => `<span><svg width="26" height="10"><line x1="0" x2="26" y1="5" y2="5" stroke="${color(KINDS[k])}" stroke-width="2" stroke-dasharray="${dashes[KINDS[k]]}"/></svg>${kindName[k]}</span>`).join("")
    : `<span class="note">The colours are those of the table above; pale lines are the training, strong ones the validation.</span>`;
}

function costs() {
  const priced = runs.map((r, i) => [r, i]).filter(([r, i]) => r.summary.val != null && !hidden.has(i));
  const measures = ["flops", "params", "acts"].filter(m => new Set(priced.map(([r]) => r.complexity[m]).filter(v => v != null)).size > 1);
  at("priced").hidden = !measures.length;
  at("costs").innerHTML = measures.map(m => chart({ title: `${metricName} against ${m}`, x: { label: m, log: true }, y: { label: `best validation ${metricName}` },
    series: priced.filter(([r]) => r.complexity[m] != null).map(([r, i]) => ({ kind: "dots", shape: i, color: color(i), points: [[r.complexity[m], r.summary.val, `${r.name}: ${score(r.summary.val)}, ${short(r.complexity[m])} ${m}`]] })) })).join("");
}

function network(r) {
  if (!r.stages.length) return "";
  const widest = Math.max(...r.stages.map(s => s[2] || 1)), deepest = r.stages.reduce((d, s) => d + s[1], 0);
  const cost = Object.entries(r.complexity).map(([k, v]) => `${short(v)} ${k}`).join(", ");
  return `<h3>Network</h3><p>${drawing(r.stages, widest, deepest)} <span class="note">a bar for each stage: as long as it is deep, as high as it is wide; ${cost}</span></p>
<div class="scroll"><table>${table(["stage", "block", "depth", "width", "bottleneck ratio", "group width"], r.stages.map((s, i) => [[i + 1, "number"], safe(s[0]), ...s.slice(1).map(v => [short(v), "number"])]))}</table></div>`;
}

const MOST_DRAWN = 40;

function answers(r) {
  const f = r.findings;
  if (!f) return `<p class="note">No confusion matrix: a run leaves it at its end, where it has validation or test images (option tracking.report).</p>`;
  const n = f.classes.length, sums = Array(n).fill(0), right = Array(n).fill(0), worst = Array(n).fill(null);
  for (const [label, guess, images] of f.counts) {
    sums[label] += images;
    if (label === guess) right[label] += images;
    else if (!worst[label] || images > worst[label][1]) worst[label] = [guess, images];
  }
  const total = sums.reduce((a, b) => a + b, 0);
  let html = `<h3>Answers on the ${f.split} images, by the network of epoch ${f.epoch}</h3>`;
  if (total) html += `<p>${right.reduce((a, b) => a + b, 0)} of ${total} right, ${score(right.reduce((a, b) => a + b, 0) / total)}; always answering the largest class (${safe(f.classes[sums.indexOf(Math.max(...sums))])}) would be right for ${score(Math.max(...sums) / total)}.</p>`;
  html += `<div class="pair">${total && n <= MOST_DRAWN ? matrix(f, sums) : ""}${total ? `<div class="scroll tall"><table id="classes" class="sortable"></table></div>` : ""}</div>`;
  const confusions = f.counts.filter(([a, b]) => a !== b).sort((a, b) => b[2] - a[2]).slice(0, 12);
  if (confusions.length) html += `<h4>Most frequent confusions</h4><div class="scroll"><table>${table(["class", "taken for", "images", "of the class"], confusions.map(([a, b, c]) => [safe(f.classes[a]), safe(f.classes[b]), [c, "number"], [score(c / sums[a]), "number"]]))}</table></div>`;
  if (f.mistakes.length) html += `<details><summary>The most certain mistakes as a list (${f.mistakes.length})</summary><div class="scroll"><table>${table(["answer", "certainty", "class", "image"], f.mistakes.map(m => [safe(f.classes[m.guess]), [score(m.confidence), "number"], safe(f.classes[m.label]), safe(m.name)]))}</table></div></details>`;
  return { html, after: () => {
    if (!total) return;
    const rows = f.classes.map((name, i) => ({ name, i, accuracy: sums[i] ? right[i] / sums[i] : null }));
    sortable(at("classes"), [{ name: "class", get: c => c.name }, { name: "images", get: c => sums[c.i], number: true }, { name: "accuracy", get: c => c.accuracy, cell: c => score(c.accuracy), number: true },
      { name: "most often taken for", get: c => worst[c.i] ? f.classes[worst[c.i][0]] : null, cell: c => worst[c.i] ? `${safe(f.classes[worst[c.i][0]])} (${worst[c.i][1]})` : "" }], rows, { order: 2 });
  } };
}

function matrix(f, sums) {
  const n = f.classes.length, cell = Math.max(9, Math.min(30, 420 / n)), left = 12 + 6.2 * Math.min(13, Math.max(...f.classes.map(name => name.length))), top = 8, size = cell * n;
  const below = 12 + 6.2 * Math.min(13, Math.max(...f.classes.map(name => name.length)));
  const clip = name => safe(name.length > 13 ? name.slice(0, 12) + "…" : name), font = Math.min(11, cell);
  let inside = "";
  for (const [label, guess, images] of f.counts) {
    const part = images / sums[label], x = left + guess * cell, y = top + label * cell;
    inside += `<rect x="${x}" y="${y}" width="${cell}" height="${cell}" fill="#0072B2" opacity="${(0.08 + 0.92 * part).toFixed(3)}"><title>${safe(f.classes[label])} taken for ${safe(f.classes[guess])}: ${images} (${score(part)})</title></rect>`;
    if (cell >= 20) inside += `<text x="${x + cell / 2}" y="${y + cell / 2 + 3.5}" text-anchor="middle" style="font-size:10px;fill:${part > 0.5 ? "#fff" : "var(--text)"};pointer-events:none">${images}</text>`;
  }
  f.classes.forEach((name, i) => {
    inside += `<text x="${left - 4}" y="${top + (i + 0.5) * cell + 3.5}" text-anchor="end" style="font-size:${font}px">${clip(name)}</text><text transform="translate(${left + (i + 0.5) * cell + 3.5} ${top + size + 4}) rotate(-90)" text-anchor="end" style="font-size:${font}px">${clip(name)}</text>`;
  });
  return `<figure><figcaption>Confusion matrix<small>rows are classes, columns the network's answers</small></figcaption><svg viewBox="0 0 ${left + size + 4} ${top + size + below}" width="100%" role="img" aria-label="confusion matrix; the tables beside it hold the same">${inside}<rect x="${left}" y="${top}" width="${size}" height="${size}" fill="none" class="axis"/></svg></figure>`;
}

function detail() {
  const r = runs[+at("run").value || 0], found = answers(r);
  at("network").innerHTML = network(r);
  at("answers").innerHTML = found.html || found;
  if (found.after) found.after();
  const what = name => name.startsWith("train") ? "The first training batch, as the network saw it" : "The most certain mistakes: the answer, how probable it seemed, and the class";
  at("pictures").innerHTML = r.pictures.map(([name, uri]) => `<figure class="wide"><figcaption>${what(name)}<small>${safe(name)}</small></figcaption><img src="${uri}" alt="${what(name)}"></figure>`).join("");
  at("command").textContent = r.command;
  at("environment").innerHTML = table(["what", "value"], r.environment.map(([k, v]) => [safe(k), [safe(v), "wrap"]]));
}

overview();
curves();
costs();
for (const id of ["axis", "log"]) at(id).addEventListener("change", curves);
at("run").innerHTML = runs.map((r, i) => `<option value="${i}">${safe(r.name)}</option>`).join("");
at("chooser").hidden = single;
at("run").addEventListener("change", detail);
detail();
at("differs").textContent = single ? "Options that differ from the defaults" : "Options in which the runs differ";
at("differences").innerHTML = table(["option", ...data.differences.head], data.differences.rows.map(([key, ...values]) => [safe(key), ...values.map(v => [safe(v), "wrap"])]));
