"use strict";
(() => {
  const data = JSON.parse(document.getElementById("box-data").textContent);
  const at = (id) => document.getElementById(id);
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  // Abramowitz and Stegun 7.1.26: the probability that a normal edge lies within ± factor standard deviations
  const within = (factor) => {
    const x = factor / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
    const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return 1 - series * Math.exp(-x * x);
  };
  const frame = ([left, top, right, bottom], attributes) => svg("rect", {
    x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), fill: "none",
    "vector-effect": "non-scaling-stroke", ...attributes,
  });
  const bounds = (edges, std, factor) => {
    const outer = edges.map((edge, i) => edge + (i < 2 ? -1 : 1) * factor * std[i]);
    const inner = edges.map((edge, i) => edge + (i < 2 ? 1 : -1) * factor * std[i]);
    for (const i of [0, 1]) if (inner[i] > inner[i + 2]) inner[i] = inner[i + 2] = (inner[i] + inner[i + 2]) / 2;
    return [inner, outer];
  };
  const draw = () => {
    const it = data.images[Number(at("box-image").value)], view = at("box-view");
    const factor = Number(at("box-factor").value), least = Number(at("box-score").value);
    at("box-factor-text").textContent = `± ${factor.toFixed(2)} standard deviations (${(100 * within(factor)).toFixed(1)} % of a normal edge)`;
    at("box-score-text").textContent = least.toFixed(2);
    view.setAttribute("viewBox", `0 0 ${it.width} ${it.height}`);
    view.replaceChildren(svg("image", { href: it.image, width: it.width, height: it.height }));
    if (at("box-true").checked) {
      for (const [edges, , ignored] of it.true) view.append(frame(edges, { stroke: "#fff", "stroke-width": 2, "stroke-dasharray": ignored ? "2 6" : "6 4" }));
    }
    let shown = 0, covered = 0, found = 0;
    for (const [edges, std, kind, score, partner] of it.boxes) {
      if (score < least) continue;
      shown += 1;
      const [inner, outer] = bounds(edges, std, factor), color = data.colors[kind];
      if (partner >= 0) {
        found += 1;
        const right = it.true[partner][0];
        covered += right.every((edge, i) => Math.abs(edge - edges[i]) <= factor * std[i] + 1e-9);
      }
      const ring = ["outer", "inner"].map((name, i) => frame([outer, inner][i], { class: name, stroke: color, "stroke-width": 1, "stroke-opacity": 0.75 }));
      const title = svg("title", {});
      title.textContent = `${data.classes[kind]}, score ${score.toFixed(2)}, edges ± ${std.map((s) => s.toFixed(1)).join(", ")} px (left, top, right, bottom)`;
      const group = svg("g", { class: "box" });
      group.append(...ring, frame(edges, { class: "edges", stroke: color, "stroke-width": 2.5, "pointer-events": "all" }), title);
      view.append(group);
    }
    at("box-readout").textContent = `${shown} boxes; ${covered} of ${found} true boxes that are found lie between their bounds.`;
  };
  data.images.forEach((it, i) => at("box-image").append(new Option(it.name, i)));
  at("box-factor").value = data.factor;
  for (const id of ["box-image", "box-factor", "box-score", "box-true"]) at(id).addEventListener("input", draw);
  draw();
})();
