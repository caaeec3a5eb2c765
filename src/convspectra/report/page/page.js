"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const layers = data.layers;
  const element = (id) => document.getElementById(id);
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let isolated = null;   // index of the layer singled out, null for all
  let hovered = null;
  let dark = system.matches;
  const charts = {};

  const text = (value) => value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(4)));
  const colour = (layer) => dark ? layers[layer].dark : layers[layer].light;
  // Of any number of values: an argument list ends at about a hundred thousand.
  const most = (values, start = -Infinity) => values.reduce((a, b) => a > b ? a : b, start);
  const least = (values, start = Infinity) => values.reduce((a, b) => a < b ? a : b, start);
  // Kept until the theme changes: asking for a style takes long where thousands of things are drawn.
  const colours = new Map();
  const css = (name) => colours.get(name) ?? colours.set(name, getComputedStyle(root).getPropertyValue(name).trim()).get(name);

  // ---- the three figures of curves -------------------------------------------------------
  const figures = {
    figure5: { x: "rank", y: "singular value", log: { x: false, y: false }, point: (c, i) => [c.ranks[i], c.values[i]] },
    figure6: { x: "rank", y: "ratio to the largest", log: { x: false, y: false }, point: (c, i) => [c.ranks[i], c.values[i] / c.norm] },
    figure7: { x: "rank / number of singular values", y: "ratio to the largest", log: { x: false, y: false }, point: (c, i) => [c.ranks[i] / c.count, c.values[i] / c.norm] },
  };
  for (const figure of Object.values(figures)) {
    figure.curves = data.curves.filter((c) => c.norm > 0).map((c) => ({ layer: c.layer, when: c.when, error: c.error, points: c.ranks.map((_, i) => figure.point(c, i)) }));
  }

  const axis = (name, log, floor, room) => ({
    type: log ? "log" : "value", name, nameLocation: "middle", nameGap: room,
    min: log ? floor : undefined, scale: log,
    nameTextStyle: { color: css("--soft"), fontSize: 12 },
    axisLabel: { color: css("--soft"), hideOverlap: true, formatter: (v) => tick(v, log) },
    axisLine: { show: true, lineStyle: { color: css("--soft") } },
    splitLine: { lineStyle: { color: css("--line") } },
  });
  const tick = (v, log) => {
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (log && (size < 0.01 || size >= 1e4)) return v.toExponential(0).replace("e+", "e");
    if (size >= 1e6) return Number(v / 1e6) + "M";
    if (size >= 1e4) return Number(v / 1e3) + "k";
    return String(Number(v.toPrecision(6)));
  };

  function drawCurves(id) {
    const figure = figures[id];
    // Below a trillionth of the largest there is only rounding; a logarithmic axis ends there.
    const largest = most(figure.curves.map((c) => c.points[0][1]), 1e-300);
    const smallest = Math.max(largest * 1e-12, least(figure.curves.flatMap((c) => c.points.map((p) => p[1]).filter((v) => v > 0)), largest));
    const lowest = Math.pow(10, Math.floor(Math.log10(smallest)));
    const first = least(figure.curves.map((c) => c.points[0][0]), 1);
    charts[id].setOption({
      animation: false, grid: { left: 58, right: 16, top: 12, bottom: 46 },
      xAxis: axis(figure.x, figure.log.x, Math.pow(10, Math.floor(Math.log10(first))), 28),
      yAxis: axis(figure.y, figure.log.y, lowest, 42),
      series: alike(figure.curves).map((curves, i) => {
        const { layer, when } = curves[0], strong = isStrong(layer);
        const faded = isolated !== null && !strong;
        // A curve ends with a point that is none, so that no line leads to the next one.
        const points = curves.flatMap((c) => [...(figure.log.y ? c.points.filter((p) => p[1] >= lowest) : c.points), [NaN, NaN]]);
        return {
          id: i, type: "line", showSymbol: false, silent: true, z: strong ? 5 : 2, data: points,
          lineStyle: { color: colour(layer), type: when === "before" ? "dashed" : "solid", width: strong ? 3 : 1.4, opacity: faded ? 0.07 : hovered !== null && !strong ? 0.35 : 0.95 },
        };
      }),
    }, { replaceMerge: ["series"] });
  }

  // Curves that are drawn with one pen: of many layers, neighbours whose colours nobody tells apart.
  const isStrong = (layer) => layer === isolated || layer === hovered;
  const neighbours = Math.ceil(layers.length / 256);
  function alike(curves) {
    const groups = new Map();
    for (const c of curves) {
      const pen = isStrong(c.layer) ? `${c.layer} ${c.when}` : `${c.layer - c.layer % neighbours} ${c.when} others`;
      groups.set(pen, [...(groups.get(pen) ?? []), c]);
    }
    return [...groups.values()];
  }

  // The curve nearest to a pixel, at most 24 pixels away; of all when none is singled out.
  function nearest(id, x, y) {
    const chart = charts[id], figure = figures[id];
    let best = null, closest = 24;
    for (const c of figure.curves) {
      if (isolated !== null && c.layer !== isolated) continue;
      let previous = null;
      for (const p of c.points) {
        if ((figure.log.y && p[1] <= 0) || (figure.log.x && p[0] <= 0)) continue;
        const [px, py] = chart.convertToPixel({ gridIndex: 0 }, p);
        if (previous && x >= previous[0] - 1 && x <= px + 1) {
          const share = px === previous[0] ? 0 : (x - previous[0]) / (px - previous[0]);
          const at = px - previous[0] < 2 ? Math.min(Math.max(y, Math.min(py, previous[1])), Math.max(py, previous[1])) : previous[1] + share * (py - previous[1]);
          const distance = Math.abs(at - y);
          if (distance < closest) { closest = distance; best = { layer: c.layer, when: c.when, error: c.error, point: share < 0.5 ? previous[2] : p }; }
        }
        previous = [px, py, p];
      }
    }
    return best;
  }

  // ---- norms with bounds ------------------------------------------------------------------
  const norms = { log: { y: false } };
  const withNorms = layers.map((_, i) => i).filter((i) => layers[i].norms.some((v) => v !== null) || layers[i].before > 0);

  function drawNorms() {
    const values = withNorms.flatMap((i) => [...layers[i].norms, layers[i].before].filter((v) => v > 0));
    const floor = values.length ? Math.pow(10, Math.floor(Math.log10(least(values)))) : 0.1;
    const bottom = norms.log.y ? floor : 0;
    charts.norms.setOption({
      animation: false, grid: { left: 58, right: 16, top: 12, bottom: 96 },
      xAxis: {
        type: "category", data: withNorms.map((i) => layers[i].name), axisTick: { show: false },
        axisLine: { lineStyle: { color: css("--soft") } },
        axisLabel: {
          color: css("--soft"), rotate: 50, fontSize: 10, interval: (i) => i % Math.ceil(14 * withNorms.length / Math.max(1, charts.norms.getWidth() - 74)) === 0,
          formatter: (name) => name.length > 16 ? "…" + name.slice(-15) : name,
        },
      },
      yAxis: axis("norm", norms.log.y, floor, 42),
      series: [{
        type: "custom", silent: true, data: withNorms.map((_, i) => [i, ...layers[withNorms[i]].norms.map((v) => v ?? NaN), layers[withNorms[i]].before ?? NaN]),
        encode: { x: 0, y: [1, 2, 3, 4, 5] },
        renderItem: (_, api) => {
          const place = api.value(0), layer = withNorms[place];
          const width = Math.max(2, Math.min(26, api.size([1, 0])[0] * 0.62));
          const at = (v) => api.coord([place, Math.max(v, bottom)]);
          const [torus, lower, upper, any, before] = [1, 2, 3, 4, 5].map((k) => api.value(k));
          const x = at(bottom)[0], ink = css("--ink");
          const faded = isolated !== null && isolated !== layer ? 0.15 : 1;
          const parts = [];
          if (torus > 0) {
            const top = at(torus)[1];
            parts.push({ type: "rect", shape: { x: x - width / 2, y: top, width, height: Math.max(0, at(bottom)[1] - top) }, style: { fill: colour(layer), opacity: 0.75 * faded } });
          }
          if (before > 0) {
            const top = at(before)[1];
            parts.push({ type: "rect", shape: { x: x - width / 2, y: top, width, height: Math.max(0, at(bottom)[1] - top) }, style: { fill: null, stroke: colour(layer), lineWidth: 1, lineDash: [2, 2], opacity: faded } });
          }
          const line = (x1, y1, x2, y2, dash) => parts.push({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: ink, lineWidth: dash ? 1.3 : 1.8, lineDash: dash ? [3, 2] : null, opacity: faded } });
          if (upper > 0) {
            const low = at(lower > 0 ? lower : bottom)[1], high = at(upper)[1];
            line(x, low, x, high);
            if (width > 4) for (const end of [low, high]) line(x - width / 5, end, x + width / 5, end);
          }
          if (any > 0) line(x - width / 2, at(any)[1], x + width / 2, at(any)[1], true);
          return { type: "group", children: parts };
        },
      }],
    });
  }

  // ---- frequency map ----------------------------------------------------------------------
  const select = element("chosen");
  data.maps.forEach((map, i) => select.append(new Option(layers[map.layer].name + (map.when ? `, ${map.when}` : ""), String(i))));

  // Viridis at five points, straight between them.
  const ramp = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  function ofMap(share) {
    const at = share * (ramp.length - 1), left = Math.min(Math.floor(at), ramp.length - 2);
    return `rgb(${ramp[left].map((a, i) => Math.round(a + (at - left) * (ramp[left + 1][i] - a))).join(",")})`;
  }

  function drawMap() {
    const map = data.maps[Number(select.value || -1)];
    element("scale").hidden = !map || map.values.length === 1;
    if (!map) { charts.map.clear(); element("pooled").textContent = data.maps.length ? "" : "No layer here has more than one frequency."; return; }
    element("pooled").textContent = [map.pooled && "Each cell shows the largest value of several frequencies.", map.sampled && "Only a part of the frequencies was looked at."].filter(Boolean).join(" ");
    const rows = map.values.length, columns = map.values[0].length;
    const flat = map.values.flat();
    // Of two models, a layer's two maps have one scale of colours.
    const both = data.maps.filter((m) => m.layer === map.layer).flatMap((m) => m.values.flat());
    const low = least(both), high = most(both);
    element("scale").replaceChildren(text(low), document.createElement("i"), text(high));
    element("scale").children[0].style.background = `linear-gradient(to right, ${ramp.map((_, i) => ofMap(i / (ramp.length - 1))).join(",")})`;
    const soft = { color: css("--soft"), fontSize: 12 };
    const place = (n) => (i) => { const f = (i - Math.floor(n / 2)) / n; return f === 0 ? "0" : String(Number(f.toFixed(2))).replace("-", "−"); };
    const some = (n) => (i) => (i - Math.floor(n / 2)) % Math.max(1, Math.round(n / 8)) === 0;
    const line = rows === 1;
    charts.map.clear();
    const ends = (n) => Array.from({ length: n }, (_, i) => i);
    charts.map.setOption({
      animation: false, grid: { left: 58, right: 16, top: 12, bottom: 46 },
      xAxis: { type: "category", data: ends(columns), name: "frequency, cycles per point" + (line ? "" : " (width)"), nameLocation: "middle", nameGap: 28, nameTextStyle: soft, axisLabel: { color: css("--soft"), hideOverlap: true, formatter: (v) => place(columns)(Number(v)), interval: some(columns) } },
      yAxis: line ? axis("largest singular value", false, 0, 42) : { type: "category", data: ends(rows), name: "frequency (height)", nameLocation: "middle", nameGap: 42, nameTextStyle: soft, axisLabel: { color: css("--soft"), formatter: (v) => place(rows)(Number(v)), interval: some(rows) } },
      series: line
        ? [{ type: "line", showSymbol: false, silent: true, data: flat.map((v, i) => [i, v]), lineStyle: { color: colour(map.layer), width: 2 } }]
        : [{
          type: "custom", silent: true, data: map.values.flatMap((row, j) => row.map((v, i) => [i, j, v])),
          renderItem: (_, api) => {
            // Wider by what rounding could leave between two cells.
            const [x, y] = api.coord([api.value(0), api.value(1)]), [width, height] = api.size([1, 1]);
            const share = high === low ? 0 : (api.value(2) - low) / (high - low);
            return { type: "rect", shape: { x: x - width / 2, y: y - height / 2, width: width + 0.5, height: height + 0.5 }, style: { fill: ofMap(share) } };
          },
        }],
    });
  }

  function findMap(x, y) {
    const map = data.maps[Number(select.value || -1)];
    if (!map || !charts.map.containPixel({ gridIndex: 0 }, [x, y])) return null;
    const [column, row] = charts.map.convertFromPixel({ gridIndex: 0 }, [x, y]).map(Math.round);
    const value = map.values[map.values.length === 1 ? 0 : row]?.[column];
    return value === undefined ? null : { layer: map.layer, lines: [text(value)] };
  }

  // ---- switches between linear and logarithmic ---------------------------------------------
  for (const box of document.querySelectorAll(".switches")) {
    const id = box.dataset.for, state = id === "norms" ? norms.log : figures[id].log;
    for (const name of Object.keys(state)) {
      const group = document.createElement("span");
      group.append(`${name} axis`);
      const buttons = [["linear", false], ["log", true]].map(([label, value]) => {
        const button = document.createElement("button");
        button.type = "button"; button.textContent = label; button.dataset.axis = name; button.dataset.scale = label;
        button.addEventListener("click", () => { state[name] = value; mark(); id === "norms" ? drawNorms() : drawCurves(id); });
        group.append(button);
        return [button, value];
      });
      const mark = () => buttons.forEach(([button, value]) => button.setAttribute("aria-pressed", String(state[name] === value)));
      mark();
      box.append(group);
    }
  }

  // ---- table --------------------------------------------------------------------------------
  const body = document.querySelector("#table tbody");
  const head = document.createElement("tr");
  let sorted = { column: null, down: false };
  data.columns.forEach((column, index) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (column.numeric) cell.className = "numeric";
    const button = document.createElement("button");
    button.type = "button"; button.textContent = column.title;
    button.addEventListener("click", () => {
      // Numbers first from large to small, words from a to z.
      sorted = { column: index, down: sorted.column === index ? !sorted.down : column.numeric };
      fillTable();
    });
    cell.append(button);
    head.append(cell);
  });
  document.querySelector("#table thead").append(head);

  function fillTable() {
    const order = layers.map((_, i) => i);
    if (sorted.column !== null) {
      const key = (i) => layers[i].cells[sorted.column][1];
      order.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        const way = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
        return (sorted.down ? -way : way) || a - b;
      });
      [...head.children].forEach((cell, i) => i === sorted.column ? cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
    }
    const all = document.createDocumentFragment();
    for (const i of order) all.append(...rows(i));
    body.replaceChildren(all);
  }

  function rows(index) {
    const layer = layers[index], row = document.createElement("tr");
    row.dataset.layer = index;
    row.className = [layer.status, index === isolated ? "chosen" : "", layer.reason ? "has-reason" : ""].join(" ");
    layer.cells.forEach(([shown], i) => {
      const cell = document.createElement("td");
      if (data.columns[i].numeric) cell.className = "numeric";
      if (i === 0) {
        const dot = document.createElement("i");
        dot.style.background = colour(index);
        cell.append(dot);
        row.tabIndex = 0;
      }
      cell.append(i === 0 && layer.assumed.length ? `${shown}*` : shown);
      row.append(cell);
    });
    const choose = () => isolate(index);
    row.addEventListener("click", choose);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
    if (!layer.reason) return [row];
    const why = document.createElement("tr"), cell = document.createElement("td");
    cell.colSpan = layer.cells.length; cell.className = "reason"; cell.textContent = `${layer.status}: ${layer.reason}`;
    why.append(cell);
    return [row, why];
  }
  const assumed = [...new Set(layers.flatMap((layer) => layer.assumed))];
  if (assumed.length) element("assumptions").textContent = `* assumed, as the file does not state it: ${assumed.join(", ")}.`;

  // ---- singling out a layer, hovering ---------------------------------------------------------
  function isolate(layer) {
    isolated = layer === isolated ? null : layer;
    hovered = null;
    element("isolated").textContent = isolated === null ? "" : layers[isolated].name;
    element("restore").hidden = isolated === null;
    const shown = () => data.maps[Number(select.value || -1)]?.layer;
    // The last of them: of two models, that of the second.
    if (isolated !== null && shown() !== isolated) {
      const found = data.maps.findLastIndex((m) => m.layer === isolated);
      if (found >= 0) select.value = String(found);
    }
    draw();
    if (isolated !== null && shown() !== isolated) element("pooled").textContent = `${layers[isolated].name} has no map: it is the same at every frequency, or has no spectrum.`;
    for (const row of body.children) row.classList.toggle("chosen", Number(row.dataset.layer) === isolated && "layer" in row.dataset);
  }

  function hover(box, layer, lines, x, y) {
    let tip = box.parentElement.querySelector(".tip");
    if (layer === null) { tip?.remove(); return; }
    if (!tip) { tip = document.createElement("div"); tip.className = "tip"; box.parentElement.append(tip); }
    const name = document.createElement("b");
    name.textContent = layers[layer].name;
    tip.replaceChildren(name, ...lines.flatMap((line) => [document.createElement("br"), line]));
    const left = box.offsetLeft + x + 14;
    tip.style.left = `${Math.max(0, Math.min(left, box.offsetLeft + box.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${box.offsetTop + Math.max(0, y - tip.offsetHeight - 10)}px`;
  }

  function watch(id, find, redraw) {
    const box = element(id), surface = charts[id].getZr();
    surface.on("mousemove", (event) => {
      const found = find(event.offsetX, event.offsetY);
      hover(box, found ? found.layer : null, found ? found.lines : [], event.offsetX, event.offsetY);
      const layer = found ? found.layer : null;
      if (layer !== hovered) { hovered = layer; redraw(); }
      box.style.cursor = found ? "pointer" : "";
    });
    surface.on("globalout", () => { hover(box, null); if (hovered !== null) { hovered = null; redraw(); } });
    surface.on("click", (event) => {
      const found = find(event.offsetX, event.offsetY);
      if (found) isolate(found.layer); else if (isolated !== null) isolate(isolated);
    });
  }

  function findNorm(x, y) {
    if (!charts.norms.containPixel({ gridIndex: 0 }, [x, y])) return null;
    const place = Math.round(charts.norms.convertFromPixel({ gridIndex: 0 }, [x, y])[0]);
    const layer = withNorms[place];
    if (layer === undefined) return null;
    const [, lower, upper, any] = layers[layer].norms;
    const before = layers[layer].before;
    const lines = [before === undefined ? `wrapped: ${layers[layer].wrapped}` : `wrapped: ${layers[layer].wrapped_before} before, ${layers[layer].wrapped} after`];
    if (upper !== null) lines.push(layers[layer].exact ? `own padding: = ${text(upper)}` : `own padding: ${text(lower)} to ${text(upper)}`);
    if (any !== null) lines.push(`any size: at most ${text(any)}`);
    return { layer, lines };
  }

  function draw() {
    element("ramp").style.background = `linear-gradient(to right, ${layers.length ? layers.map((_, i) => colour(i)).concat(colour(layers.length - 1)).join(",") : "none"})`;
    Object.keys(figures).forEach(drawCurves);
    drawNorms();
    drawMap();
  }

  function theme(value) {
    dark = value;
    root.dataset.theme = dark ? "dark" : "light";
    root.style.colorScheme = root.dataset.theme;
    element("theme").textContent = dark ? "light" : "dark";
    colours.clear();
    draw();
    fillTable();
  }

  for (const id of [...Object.keys(figures), "norms", "map"]) charts[id] = echarts.init(element(id), null, { renderer: "svg" });
  for (const id of Object.keys(figures)) {
    watch(id, (x, y) => {
      const found = nearest(id, x, y);
      return found && { layer: found.layer, lines: [...(found.when ? [found.when] : []), `${figures[id].x} ${text(found.point[0])}`, `${figures[id].y} ${text(found.point[1])}`, ...(found.error ? [`an estimate: singular values off by at most ${text(found.error)}`] : [])] };
    }, () => drawCurves(id));
  }
  watch("norms", findNorm, () => {});
  watch("map", findMap, () => {});
  select.addEventListener("change", drawMap);
  element("restore").addEventListener("click", () => isolate(isolated));
  element("theme").addEventListener("click", () => theme(!dark));
  system.addEventListener("change", (event) => theme(event.matches));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && isolated !== null) isolate(isolated); });
  const resize = () => Object.values(charts).forEach((chart) => chart.resize());
  addEventListener("resize", resize);
  // Print on white; the drawings, scaled as a whole, take the width that the paper gives them.
  let before = dark;
  addEventListener("beforeprint", () => {
    before = dark;
    if (dark) theme(false);
    for (const chart of Object.values(charts)) chart.getDom().querySelector("svg").setAttribute("viewBox", `0 0 ${chart.getWidth()} ${chart.getHeight()}`);
  });
  addEventListener("afterprint", () => { if (before) theme(true); });
  theme(dark);
})();
