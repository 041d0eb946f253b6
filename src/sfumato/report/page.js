"use strict";
(() => {
  const read = JSON.parse(document.getElementById("data").textContent);
  const every = read.tasks ?? { "": read }, TASKS = Object.keys(every);  // of one task the page has no name for it
  let data = every[TASKS[0]];
  const at = (id) => document.getElementById(id);
  const PARTS = ["total", "aleatoric", "epistemic"];
  const TEACHER = "teacher’s ";
  const shared = (index) => every[TASKS[0]].images[index];  // what is the same for all tasks, and kept once
  const PICTURES = every[TASKS[0]].pictures ?? {};  // further pictures and what they show
  const KEYS = every[TASKS[0]].keys ?? {};  // their colors
  const layers = (of) => ["image", "target", "prediction", "error", ...PARTS, ...(of.sizes ? ["size"] : []),
    ...(of.images.some((it) => it.teacher) ? PARTS.map((part) => TEACHER + part) : []), ...Object.keys(PICTURES)];
  const meaning = (layer) => layer.startsWith(TEACHER)
    ? `The teacher’s ${layer.replace(TEACHER, "")} uncertainty, from many passes. The student learned to predict it in one.`
    : layer in PICTURES ? PICTURES[layer] : ({
    image: "The image as the network sees it.",
    target: "The ground truth. Gray where it is unknown.",
    prediction: "The network’s best guess.",
    error: data.errorUnit ? "Distance between the best guess and the ground truth. Gray where that is unknown." : "Red where the best guess is wrong. Gray where the ground truth is unknown.",
    total: "The total uncertainty of the prediction.",
    aleatoric: "Ambiguity and noise in the data, which more data would not remove.",
    epistemic: "What the network has not learned. More data would reduce it.",
    size: data.sizesMeaning || (data.sizesUnit === "classes" ? "How many classes beside the best guess are in the conformal set." : "The width of the conformal interval."),
  })[layer];
  const WRONG = [196, 62, 28], RIGHT = [226, 230, 234], UNKNOWN = [150, 157, 165];
  const state = { task: TASKS[0], image: 0, layer: "total", opacity: 0.8, by: "total", cut: 255, spot: 0, group: Object.keys(data.groups)[0] };

  // ---- numbers: maps hold round(255 √(u / end)), 255 from the end of the scale on
  const value = (code, part) => data.ends[part] * (code / 255) ** 2;
  const code = (u, part) => Math.round(255 * Math.sqrt(Math.min(1, Math.max(0, u / data.ends[part]))));
  const number = (x) => (Number.isFinite(x) ? String(Number(x.toPrecision(3))) : "–");
  const scored = (wrong, kept) => (data.score === "accuracy" ? 1 - wrong / kept : Math.sqrt(wrong / kept));
  const written = (score) => !Number.isFinite(score) ? "–"
    : data.score === "accuracy" ? (100 * score).toFixed(1) + " %" : number(score) + " " + data.errorUnit;

  // ---- pixels of an image: decoded once
  const decoded = new Map();
  const load = (uri) => new Promise((done, failed) => {
    const picture = new Image();
    picture.onload = () => done(picture);
    picture.onerror = () => failed(new Error("a picture of this page is damaged"));
    picture.src = uri;
  });
  const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
  const pixels = (picture) => {
    const pen = canvas(picture.naturalWidth, picture.naturalHeight).getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture, 0, 0);
    return pen.getImageData(0, 0, picture.naturalWidth, picture.naturalHeight);
  };
  const decode = (index, task = state.task) => {
    const name = `${task}/${index}`;
    if (!decoded.has(name)) {
      const it = every[task].images[index];
      const names = Object.keys(shared(index).pictures ?? {});
      const uris = [shared(index).image, it.target, it.prediction, it.parts, it.error, it.size, it.teacher, ...names.map((name) => shared(index).pictures[name])];
      decoded.set(name, Promise.all(uris.map((uri) => uri && load(uri))).then(([image, target, prediction, parts, error, size, teacher, ...pictures]) => {
        const further = Object.fromEntries(names.map((name, i) => [name, pictures[i]]));
        return prepare(every[task], { image, target, prediction, ...further }, pixels(parts), pixels(error), size && pixels(size), teacher && pixels(teacher));
      }));
    }
    return decoded.get(name);
  };

  // Errors of the pixels at or below each code, for each part: every threshold is then one look-up.
  const prepare = (data, layers, parts, error, size, teacher) => {
    const ready = { width: parts.width, height: parts.height, layers, parts, kept: {}, wrong: {} };
    for (const [channel, part] of PARTS.entries()) {
      const kept = new Float64Array(256), wrong = new Float64Array(256);
      for (let i = 0; i < parts.data.length; i += 4) {
        if (error.data[i + 2] < 128) continue;
        const e = ((error.data[i] << 8) | error.data[i + 1]) / 65535 * data.ends.worst;
        kept[parts.data[i + channel]] += 1;
        wrong[parts.data[i + channel]] += data.score === "accuracy" ? (e > 0.5) : e * e;
      }
      for (let c = 1; c < 256; c++) { kept[c] += kept[c - 1]; wrong[c] += wrong[c - 1]; }
      ready.kept[part] = kept; ready.wrong[part] = wrong;
      layers[part] = colored(parts, (i) => data.colors[parts.data[i + channel]]);
      if (teacher) layers[TEACHER + part] = colored(teacher, (i) => data.colors[teacher.data[i + channel]]);
    }
    layers.error = colored(error, (i) => {
      if (error.data[i + 2] < 128) return null;
      const e = ((error.data[i] << 8) | error.data[i + 1]) / 65535 * data.ends.worst;
      return data.score === "accuracy" ? (e > 0.5 ? WRONG : RIGHT) : data.colors[Math.min(255, Math.round(255 * Math.sqrt(e / data.ends.error)))];
    });
    if (size) layers.size = colored(size, (i) => data.colors[size.data[i]]);
    // Where the target is unknown every layer is gray. Without any target, as out of distribution, nothing is.
    if (ready.kept.total[255]) ready.unknown = colored(error, (i) => (error.data[i + 2] < 128 ? UNKNOWN : null));
    return ready;
  };
  const colored = (source, color) => {
    const out = new ImageData(source.width, source.height);
    for (let i = 0; i < out.data.length; i += 4) {
      const rgb = color(i);
      if (rgb) { out.data[i] = rgb[0]; out.data[i + 1] = rgb[1]; out.data[i + 2] = rgb[2]; out.data[i + 3] = 255; }
    }
    const made = canvas(source.width, source.height);
    made.getContext("2d").putImageData(out, 0, 0);
    return made;
  };

  // ---- drawing
  const hatch = (() => {
    const made = canvas(10, 10), pen = made.getContext("2d");
    pen.fillStyle = "#d5d9de"; pen.fillRect(0, 0, 10, 10);
    pen.strokeStyle = "#8a94a0"; pen.lineWidth = 2;
    for (const x of [-10, 0, 10]) { pen.beginPath(); pen.moveTo(x, 10); pen.lineTo(x + 10, 0); pen.stroke(); }
    return made;
  })();
  const abstained = (ready, width, height) => {
    const channel = PARTS.indexOf(state.by), parts = ready.parts;
    const mask = colored(parts, (i) => (parts.data[i + channel] > state.cut ? [0, 0, 0] : null));
    const layer = canvas(width, height), pen = layer.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(mask, 0, 0, width, height);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = pen.createPattern(hatch, "repeat");
    pen.fillRect(0, 0, width, height);
    return layer;
  };
  const draw = (ready) => {
    const stage = at("stage"), times = Math.max(1, Math.ceil(760 / ready.width));
    stage.width = ready.width * times; stage.height = ready.height * times;
    const pen = stage.getContext("2d");
    pen.drawImage(ready.layers.image, 0, 0, stage.width, stage.height);
    pen.imageSmoothingEnabled = false;
    if (state.layer !== "image") {
      pen.globalAlpha = state.opacity;
      pen.imageSmoothingEnabled = state.layer in PICTURES;
      if (ready.layers[state.layer]) pen.drawImage(ready.layers[state.layer], 0, 0, stage.width, stage.height);
      pen.globalAlpha = 1;
      if (ready.unknown && !(state.layer in PICTURES)) pen.drawImage(ready.unknown, 0, 0, stage.width, stage.height);
    }
    if (state.cut < 255) pen.drawImage(abstained(ready, stage.width, stage.height), 0, 0);
    rings(pen, stage.width, stage.height);
    looked(ready);
    stage.setAttribute("aria-label", `${data.images[state.image].name}: ${state.task} ${state.layer}`);
  };
  // ---- saliency: rings on the stage, and both pictures with what the answer at one of them depends on
  const spots = () => shared(state.image).saliency ?? [];
  const ring = (pen, x, y, chosen) => {
    for (const [color, wide] of [["#1f2933", 5], [chosen ? "#ffbe28" : "#ffffff", 2.5]]) {
      pen.beginPath(); pen.arc(x, y, chosen ? 11 : 7, 0, 7); pen.strokeStyle = color; pen.lineWidth = wide; pen.stroke();
    }
  };
  const rings = (pen, width, height) => spots().forEach((spot, i) => ring(pen, spot.x * width, spot.y * height, i === state.spot));
  const looked = async (ready) => {
    const index = state.image, spot = spots()[state.spot] ?? spots()[0];
    at("saliency").hidden = !spot;
    if (!spot) return;
    const maps = await Promise.all(spot.maps.map(load)), pictures = [ready.layers.image, ready.layers[Object.keys(PICTURES)[0]]];
    if (index !== state.image || spot !== (spots()[state.spot] ?? spots()[0])) return;
    at("saliency").querySelectorAll("canvas").forEach((shown, i) => {
      shown.width = 560; shown.height = Math.round(560 * ready.height / ready.width);
      const pen = shown.getContext("2d"), codes = pixels(maps[i]);
      const glow = colored(codes, (k) => data.colors[codes.data[k]]);
      pen.drawImage(pictures[i], 0, 0, shown.width, shown.height);
      pen.fillStyle = "rgb(0 0 0 / .6)"; pen.fillRect(0, 0, shown.width, shown.height);
      pen.globalCompositeOperation = "lighter";
      pen.drawImage(glow, 0, 0, shown.width, shown.height);
      pen.globalCompositeOperation = "source-over";
      if (i === 0) ring(pen, spot.x * shown.width, spot.y * shown.height, true);
    });
  };
  const pick = (x, y) => {
    const far = spots().map((spot) => Math.hypot(spot.x - x, spot.y - y));
    if (far.length) { state.spot = far.indexOf(Math.min(...far)); redraw(); }
  };
  const tiles = async (index) => {
    const ready = Object.fromEntries(await Promise.all(TASKS.map(async (task) => [task, await decode(index, task)])));
    for (const tile of at("tiles").querySelectorAll("button")) paint(tile, ready[tile.dataset.task]);
  };
  const paint = (tile, ready) => {
    const small = tile.firstChild, layer = tile.dataset.layer;
    small.width = Math.min(280, ready.width * 2); small.height = Math.round(small.width * ready.height / ready.width);
    const pen = small.getContext("2d");
    pen.imageSmoothingEnabled = layer === "image" || layer in PICTURES;
    if (ready.layers[layer]) pen.drawImage(ready.layers[layer], 0, 0, small.width, small.height);
    if (ready.unknown && layer !== "image" && !(layer in PICTURES)) pen.drawImage(ready.unknown, 0, 0, small.width, small.height);
  };

  // ---- the panel beside the stage
  const legend = () => {
    const layer = state.layer, whose = layer.replace(TEACHER, ""), part = PARTS.includes(whose), values = part || layer === "size" || (layer === "error" && data.errorUnit);
    at("meaning").textContent = meaning(layer);
    at("bar").hidden = !values;
    for (const key of document.querySelectorAll(".swatches"))
      key.hidden = (layer !== "target" && layer !== "prediction") || key.dataset.task !== state.task;
    at("key").hidden = !(layer in KEYS);
    at("key").replaceChildren(...Object.entries(KEYS[layer] ?? {}).map(([name, color]) => {
      const line = document.createElement("li"), box = document.createElement("i");
      box.style.background = color;
      line.append(box, name);
      return line;
    }));
    if (!values) return;
    const end = data.ends[whose];
    at("ticks").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((f) => {  // of the bar; colors run with the square root, but for sizes
      const tick = document.createElement("span");
      tick.textContent = (f === 1 ? "≥ " : "") + number(layer === "size" ? f * end : f * f * end);
      return tick;
    }));
    at("unit").textContent = part ? data.label : layer === "size" ? data.sizesUnit : data.errorUnit;
    at("ramp").alt = `colors from 0 to ${number(end)} ${at("unit").textContent}`;
  };
  const risk = (ready) => {
    const kept = ready.kept[state.by], wrong = ready.wrong[state.by], n = kept[255], points = [];
    for (let c = 0; c < 256; c++) if (kept[c] >= 0.02 * n && kept[c] > 0) points.push([kept[c] / n, scored(wrong[c], kept[c])]);
    const scores = points.map((p) => p[1]), low = data.score === "accuracy" ? Math.min(...scores, 0.99) : 0;
    const high = data.score === "accuracy" ? 1 : Math.max(...scores, 1e-9);
    const x = (k) => 38 + 192 * k, y = (s) => 76 - 64 * (s - low) / (high - low);
    const now = [kept[state.cut] / n, scored(wrong[state.cut], kept[state.cut])];
    const dot = Number.isFinite(now[1]) && now[1] >= low && now[1] <= high ? `<circle cx="${x(now[0])}" cy="${y(now[1])}" r="4" fill="#b4532a"/>` : "";
    at("risk").innerHTML = n === 0 ? "" :
      `<path d="M38 12V76H230" fill="none" stroke="#c5ccd3"/>` +
      `<polyline points="${points.map((p) => x(p[0]) + "," + y(p[1])).join(" ")}" fill="none" stroke="#5f6b78" stroke-width="1.5"/>${dot}` +
      `<text x="34" y="16" text-anchor="end">${axis(high)}</text><text x="34" y="78" text-anchor="end">${axis(low)}</text>` +
      `<text x="38" y="90">0</text><text x="230" y="90" text-anchor="end">100 % kept</text>`;
  };
  const axis = (s) => (data.score === "accuracy" ? Math.round(100 * s) + "%" : number(s));
  const readout = (ready) => {
    const kept = ready.kept[state.by], wrong = ready.wrong[state.by], n = kept[255];
    at("threshold").textContent = state.cut === 255 ? "– (off: drag to the left)" : `${number(value(state.cut, state.by))} ${data.unit}`;
    at("kept").textContent = n ? (100 * kept[state.cut] / n).toFixed(1) + " %" : "–";
    at("measure").textContent = data.score;
    at("score").textContent = written(scored(wrong[state.cut], kept[state.cut]));
    at("all").textContent = written(scored(wrong[255], n));
    risk(ready);
  };
  const caption = () => {
    const it = data.images[state.image], members = data.groups[state.group], bold = document.createElement("b");
    bold.textContent = it.name;
    const scores = Object.entries(it.scores).map(([name, score]) => ` · ${name} ${number(score)}`).join("");
    at("caption").replaceChildren(bold, `${scores} · ${members.indexOf(state.image) + 1} of ${members.length}`);
  };
  const pressed = () => {
    for (const b of at("groups").children) b.setAttribute("aria-pressed", b.dataset.group === state.group);
    for (const b of at("tiles").querySelectorAll("button"))
      b.setAttribute("aria-pressed", b.dataset.layer === state.layer && (b.dataset.task === state.task || state.layer === "image"));
    for (const b of at("thumbs").children) b.setAttribute("aria-pressed", Number(b.dataset.image) === state.image);
    at("opacity").value = state.opacity; at("cut").value = state.cut; at("by").value = state.by;
  };

  // ---- state and address: #image=3&layer=epistemic&by=total&threshold=0.4&opacity=0.7
  const remember = () => {
    const words = [...(TASKS[0] ? [`task=${state.task}`] : []), `image=${state.image}`, `layer=${state.layer}`, `by=${state.by}`, `opacity=${state.opacity}`];
    if (state.cut < 255) words.push(`threshold=${number(value(state.cut, state.by))}`);
    history.replaceState(null, "", "#" + words.join("&"));
  };
  const recall = () => {
    const requested = new URLSearchParams(location.hash.slice(1)), index = Number(requested.get("image"));
    if (requested.has("image") && Number.isInteger(index) && data.images[index]) state.image = index;
    if (every[requested.get("task")]) use(requested.get("task"));
    if (layers(data).includes(requested.get("layer"))) state.layer = requested.get("layer");
    if (PARTS.includes(requested.get("by"))) state.by = requested.get("by");
    else if (requested.has("layer")) state.by = PARTS.includes(state.layer) ? state.layer : "total";
    const opacity = parseFloat(requested.get("opacity")), threshold = parseFloat(requested.get("threshold"));
    if (opacity >= 0 && opacity <= 1) state.opacity = opacity;
    if (requested.has("image") || requested.has("threshold")) state.cut = Number.isFinite(threshold) ? code(threshold, state.by) : 255;
    if (!data.groups[state.group].includes(state.image))
      state.group = Object.keys(data.groups).find((g) => data.groups[g].includes(state.image));
  };
  const show = async () => {
    const index = state.image, ready = await decode(index);
    if (index !== state.image) return;  // another image was chosen meanwhile
    draw(ready); legend(); readout(ready); caption(); pressed();
    await tiles(index);
    document.body.dataset.shown = index;
  };
  const redraw = async () => { const ready = await decode(state.image); draw(ready); legend(); readout(ready); pressed(); };
  const use = (task) => { state.task = task; data = every[task]; };
  const go = (index) => { state.image = index; remember(); return show(); };
  const step = (by) => {
    const members = data.groups[state.group];
    go(members[(members.indexOf(state.image) + by + members.length) % members.length]);
    at("thumbs").children[members.indexOf(state.image)]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  // A layer that is on is switched off: the bare image stays.
  const toggle = (layer, task = state.task) => {
    const off = state.layer === layer && state.task === task;
    if (task !== state.task) { use(task); state.cut = 255; }  // a threshold in nats says nothing of meters
    state.layer = off ? "image" : layer;
    remember(); caption(); redraw();
  };

  // ---- building
  const button = (kind, act, ...content) => {
    const made = document.createElement("button");
    made.type = "button";
    Object.assign(made.dataset, kind);
    made.append(...content);
    made.addEventListener("click", act);
    return made;
  };
  const named = (layer, task) => Object.assign(document.createElement("span"), { textContent: layer === "size" ? every[task].sizes : layer === "target" ? "ground truth" : layer });
  const thumb = (index) => {
    const small = new Image();
    small.src = shared(index).image;
    small.alt = data.images[index].name;
    return small;
  };
  const fill = () => at("thumbs").replaceChildren(
    ...data.groups[state.group].map((index) => button({ image: index }, () => go(index), thumb(index))));
  const choose = (group) => { state.group = group; fill(); go(data.groups[group][0]); };

  at("groups").append(...Object.keys(data.groups).filter((g) => data.groups[g].length)
    .map((group) => button({ group }, () => choose(group), `${group} (${data.groups[group].length})`)));
  const row = (task) => {
    const made = document.createElement("div");
    const shown = layers(every[task]).filter((layer) => layer !== "image" || task === TASKS[0] || !TASKS[0]);
    made.append(...shown.map((layer) => button({ layer, task, ...(layer in PICTURES ? { further: "" } : {}) }, () => toggle(layer, task), canvas(1, 1), named(layer, task))));
    return task ? [Object.assign(document.createElement("h3"), { textContent: task }), made] : [made];
  };
  at("tiles").append(...TASKS.flatMap(row));
  at("ramp").src = (() => {
    const strip = canvas(256, 1), out = new ImageData(256, 1);
    data.colors.forEach((rgb, i) => out.data.set([...rgb, 255], 4 * i));
    strip.getContext("2d").putImageData(out, 0, 0);
    return strip.toDataURL();
  })();
  at("examples")?.append(...Object.values(data.groups).at(-1).map((index) => button({ image: index }, () => {
    state.group = Object.keys(data.groups).at(-1); fill(); go(index);
    at("viewer").scrollIntoView();
  }, thumb(index))));

  at("stage").addEventListener("click", (e) => pick(e.offsetX / e.target.clientWidth, e.offsetY / e.target.clientHeight));
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("opacity").addEventListener("input", (e) => { state.opacity = Number(e.target.value); remember(); redraw(); });
  at("cut").addEventListener("input", (e) => { state.cut = Number(e.target.value); remember(); redraw(); });
  at("by").addEventListener("change", (e) => { state.by = e.target.value; remember(); redraw(); });
  addEventListener("hashchange", () => { recall(); fill(); show(); });
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches("input, select")) return;
    if (e.key === "ArrowLeft" || e.key === "ArrowRight") { e.preventDefault(); step(e.key === "ArrowLeft" ? -1 : 1); }
    if (e.key === "0") { state.layer = "image"; remember(); redraw(); }
    else if (layers(data)[Number(e.key)] && /^[1-7]$/.test(e.key)) toggle(layers(data)[Number(e.key)]);
  });
  recall(); fill(); show();
})();
