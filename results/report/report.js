"use strict";
(() => {
  const told = JSON.parse(document.getElementById("networks").textContent);
  // A network at a further deployment is another one's: the same channels, gammas and recovery.
  for (const [key, panel] of Object.entries(told.networks)) {
    const own = told.networks[panel.of];
    if (!own) continue;
    for (const name of ["kept", "removed", "blocks", "curve"]) if (own[name]) panel[name] = own[name];
    if (told.gammas[panel.of]) told.gammas[key] = told.gammas[panel.of];
  }
  const config = {responsive: true, displayModeBar: false};
  const byId = (id) => document.getElementById(id);
  const drawn = new Set();
  const observer = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    {rootMargin: "500px"},
  );
  let selected = null;

  // Figures that Python made, and those of the selected network

  const figures = new Map();
  for (const script of document.querySelectorAll("script[data-figure]")) {
    figures.set(script.dataset.figure, () => JSON.parse(script.textContent));
  }

  function layout(height, more) {
    return Object.assign(structuredClone(told.layout), {height}, more);
  }

  function draw(div) {
    if (drawn.has(div.id)) return;
    const figure = figures.get(div.id)();
    if (figure === null) return;
    drawn.add(div.id);
    observer.unobserve(div);
    // A finger that scrolls the page must not zoom the figure.
    if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
    if (div.clientWidth < 560) narrow(figure);
    Plotly.newPlot(div, figure.data, figure.layout, config);
    div.style.minHeight = "";
    div.on("plotly_click", (event) => {
      const point = event.points[0];
      const key = Array.isArray(point.customdata) ? point.customdata[1] : null;
      if (key !== null && key in told.networks) select(key);
    });
    if (div.id.startsWith("figure-front")) ring(div);
    if (div.id === "figure-recoveries") trace(div);
  }

  function narrow(figure) {
    // Legends wrap into more lines on a phone, and push the axis' title away from the plot.
    for (const axis of ["xaxis", "yaxis", "yaxis2"]) {
      if (figure.layout[axis]) figure.layout[axis].nticks = figure.layout[axis].nticks || 5;
    }
    if (figure.layout.showlegend !== false) figure.layout.height += 60;
  }

  function redraw(id) {
    const div = byId(id), figure = figures.get(id)();
    const empty = document.querySelector(`[data-empty="${id}"]`);
    empty.hidden = figure !== null;
    div.hidden = figure === null;
    if (figure === null) return;
    if (drawn.has(id)) {
      if (div.clientWidth < 560) narrow(figure);
      Plotly.react(div, figure.data, figure.layout, config);
    } else observer.observe(div);
  }

  // The selected network

  function select(key) {
    if (!(key in told.networks)) return;
    selected = key;
    byId("choice").value = key;
    for (const row of document.querySelectorAll("tr[data-network]")) {
      row.classList.toggle("selected", row.dataset.network === key);
    }
    details();
    pause();
    for (const id of ["figure-channels", "figure-gammas", "figure-classes"]) redraw(id);
    for (const id of drawn) {
      if (id.startsWith("figure-front")) ring(byId(id));
      if (id === "figure-recoveries") trace(byId(id));
    }
  }

  function network() {
    return told.networks[selected] || {facts: {}};
  }

  function details() {
    const list = byId("details");
    list.replaceChildren();
    for (const [title, value] of Object.entries(network().facts)) {
      const box = document.createElement("div");
      if (value.length > 30) box.className = "long";
      for (const [tag, words] of [["dt", title], ["dd", value]]) {
        const part = document.createElement(tag);
        part.textContent = words;
        box.append(part);
      }
      list.append(box);
    }
  }

  function ring(div) {
    const index = div.data.findIndex((item) => item.name && item.name.startsWith("selected"));
    let place = null;
    for (const item of div.data) {
      const at = (item.customdata || []).findIndex((values) => values[1] === selected);
      // The first that has it: what the study itself found, before what a confirmation did.
      if (at >= 0 && place === null) place = {x: item.x[at], y: item.y[at], yaxis: item.yaxis || "y"};
    }
    if (index < 0) return;
    const name = place === null ? "selected" : `selected: ${network().title}`;
    const at = place || {x: null, y: null, yaxis: "y"};
    Plotly.restyle(div, {x: [[at.x]], y: [[at.y]], yaxis: at.yaxis, name}, [index]);
  }

  function trace(div) {
    const curve = network().curve || [];
    const index = div.data.length - 1;
    const name = curve.length ? `selected: ${network().title}` : "selected";
    Plotly.restyle(div, {x: [curve.map((point) => point[0])], y: [curve.map((point) => point[1])], name}, [index]);
  }

  // Channels

  function channels() {
    const kept = network().kept;
    if (!kept) return null;
    const places = told.layers.map((_, place) => place).filter((place) => kept[place] !== null);
    const layers = places.map((place) => told.layers[place]);
    const share = (width, place) => 100 * width / told.dense[place];
    const data = [];
    for (const [region, removed] of Object.entries(network().removed || {})) {
      const members = places.filter((place) => told.regions[place] === region);
      data.push({
        type: "bar", orientation: "h", name: `${region || "channels"} kept (${removed} removed)`,
        y: members.map((place) => told.layers[place]), x: members.map((place) => share(kept[place], place)),
        marker: {color: told.colours.regions[region]},
        customdata: members.map((place) => `${kept[place]} of ${told.dense[place]}`),
        hovertemplate: "%{y}: %{customdata} kept<extra></extra>",
      });
    }
    data.push({
      type: "bar", orientation: "h", name: "removed", y: layers,
      x: places.map((place) => 100 - share(kept[place], place)),
      marker: {color: "rgba(128,134,145,0.2)"}, hoverinfo: "skip",
    });
    const both = places.filter((place) => told.half[place] !== null);
    if (both.length) {
      data.push({
        type: "scatter", mode: "markers", name: "half-width keeps", y: both.map((place) => told.layers[place]),
        x: both.map((place) => share(told.half[place], place)),
        marker: {symbol: "line-ns", size: 13, line: {width: 2.5, color: told.colours.control}},
        customdata: both.map((place) => `${told.half[place]} of ${told.dense[place]}`),
        hovertemplate: "%{y}, half-width: %{customdata}<extra></extra>",
      });
    }
    const look = layout(140 + 19 * layers.length, {
      barmode: "stack", bargap: 0.22, margin: {l: 8, r: 68, t: 70, b: 8},
      legend: {orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal"},
      annotations: places.map((place) => ({
        x: 1.01, xref: "paper", y: told.layers[place], text: `${kept[place]}/${told.dense[place]}`,
        showarrow: false, xanchor: "left", font: {size: 11},
      })),
    });
    Object.assign(look.xaxis, {range: [0, 100], ticksuffix: " %", title: {text: `channels kept${network().blocks || ""}`}});
    Object.assign(look.yaxis, {
      type: "category", categoryorder: "array", categoryarray: layers, range: [layers.length - 0.5, -0.5],
      showgrid: false, tickfont: {size: 11}, nticks: layers.length,
    });
    return {data, layout: look};
  }

  // Gammas, epoch by epoch

  const frame = byId("frame"), play = byId("play");
  let timer = null;

  function translucent(colour) {
    return `${colour}44`;
  }

  function heights(moving, at, region) {
    const shares = moving.frames[at].shares[region] || [];
    const bins = moving.edges.length - 1;
    const padded = Array.from({length: bins}, (_, bin) => shares[bin] || 0);
    return [...padded, padded[bins - 1]];
  }

  function lines(moving, at) {
    return moving.regions.flatMap((region, place) => {
      const x = (moving.frames[at].thresholds || {})[region];
      if (x === null || x === undefined) return [];
      const axis = place ? String(place + 1) : "";
      return [{
        type: "line", x0: x, x1: x, y0: 0, y1: 1, xref: `x${axis}`, yref: `y${axis} domain`,
        line: {color: told.colours.limit, width: 1.5, dash: "dash"},
      }];
    });
  }

  function gammas() {
    const moving = told.gammas[selected];
    byId("animation").hidden = !moving;
    if (!moving) return null;
    const at = Number(frame.value);
    const div = byId("figure-gammas"), side = (div.clientWidth || div.parentElement.clientWidth) >= 700;
    const data = [], count = moving.regions.length;
    const look = layout(side || count < 2 ? 320 : 560, {
      margin: {l: 8, r: 12, t: 20, b: 8}, legend: {orientation: "h", x: 0, y: side || count < 2 ? -0.22 : -0.14},
      shapes: lines(moving, at), grid: {rows: side ? 1 : count, columns: side ? count : 1, pattern: "independent"},
    });
    moving.regions.forEach((region, place) => {
      const axis = place ? String(place + 1) : "", colour = told.colours.regions[region];
      const common = {x: moving.edges, xaxis: `x${axis}`, yaxis: `y${axis}`, type: "scatter", mode: "lines"};
      data.push({
        ...common, y: heights(moving, at, region), name: region || "all", fill: "tozeroy", fillcolor: translucent(colour),
        line: {shape: "hv", width: 1.8, color: colour},
        hovertemplate: "gamma %{x:.3f}: %{y:.1f} %<extra></extra>",
      });
      data.push({
        ...common, y: heights(moving, 0, region), name: "first epoch", showlegend: false, hoverinfo: "skip",
        line: {shape: "hv", width: 1, dash: "dot", color: colour},
      });
      const top = Math.max(...moving.frames.flatMap((item) => item.shares[region] || [0]));
      look[`xaxis${axis}`] = {
        ...told.layout.xaxis, range: [0, moving.edges[moving.edges.length - 1]], title: {text: "gamma"},
      };
      look[`yaxis${axis}`] = {
        ...told.layout.yaxis, range: [0, 1.05 * top || 1], ticksuffix: " %",
        title: {text: `share of ${region ? `the ${region}'s` : "the"} channels`},
      };
    });
    return {data, layout: look};
  }

  function show(at) {
    const moving = told.gammas[selected], div = byId("figure-gammas");
    if (!moving) return;
    frame.value = at;
    const {round, epoch} = moving.frames[at];
    byId("moment").textContent = `round ${round}, epoch ${epoch}`;
    if (!drawn.has(div.id)) return;
    const indices = moving.regions.map((_, place) => 2 * place);
    const y = moving.regions.map((region) => heights(moving, at, region));
    Plotly.update(div, {y}, {shapes: lines(moving, at)}, indices);
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function step() {
    if (Number(frame.value) >= Number(frame.max)) return pause();
    show(Number(frame.value) + 1);
  }

  play.addEventListener("click", () => {
    if (timer !== null) return pause();
    if (Number(frame.value) >= Number(frame.max)) show(0);
    play.textContent = "Pause";
    timer = setInterval(step, 350);
  });
  frame.addEventListener("input", () => {
    pause();
    show(Number(frame.value));
  });

  // Classes

  function classes() {
    const mine = network().classes;
    if (!mine) return null;
    const controls = told.controls.filter((name) => name !== selected && told.networks[name].classes);
    const alike = controls.filter((name) => told.networks[name].facts.input === network().facts.input);
    const others = alike.length ? alike : controls.filter((name) => !told.networks[name].of);
    let places = told.classes.map((_, place) => place).filter((place) => mine[place] !== null);
    if (places.length > 30) {
      // Where the selected network lost most against the dense one.
      const dense = (told.networks.dense || {}).classes || [];
      const gain = (place) => mine[place] - (dense[place] || 0);
      places = places.sort((left, right) => gain(left) - gain(right)).slice(0, 30);
    }
    const names = places.map((place) => told.classes[place]);
    const shades = ["#d9822b", "#99a0ab", "#8c7a5b"];
    const bars = [[network().title, mine, told.colours.front]];
    others.forEach((name, place) => bars.push([name, told.networks[name].classes, shades[place % 3]]));
    const data = bars.map(([name, values, color]) => ({
      type: "bar", orientation: "h", name, y: names, x: places.map((place) => values[place]), marker: {color},
      hovertemplate: "%{y}: %{x:.3f}<extra></extra>",
    }));
    const look = layout(110 + names.length * (12 + 13 * bars.length), {
      barmode: "group", bargap: 0.25, margin: {l: 8, r: 12, t: 40, b: 8},
      legend: {orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal"},
    });
    Object.assign(look.xaxis, {title: {text: "mAP50-95"}, rangemode: "tozero"});
    Object.assign(look.yaxis, {
      type: "category", categoryorder: "array", categoryarray: names, autorange: "reversed", showgrid: false,
      nticks: names.length,
    });
    return {data, layout: look};
  }

  figures.set("figure-channels", channels);
  figures.set("figure-gammas", () => {
    const moving = told.gammas[selected];
    if (moving && timer === null) {
      frame.max = moving.frames.length - 1;
      frame.value = frame.max;
      show(Number(frame.value));
    }
    return gammas();
  });
  figures.set("figure-classes", classes);

  // The page

  function option(key) {
    const item = document.createElement("option");
    const recipe = told.networks[key].facts.recipe;
    item.value = key;
    item.textContent = told.networks[key].title + (recipe ? `: ${recipe}` : "");
    return item;
  }

  function choices() {
    const front = new Set(told.front), controls = new Set(told.controls);
    const others = Object.keys(told.networks).filter((key) => !front.has(key) && !controls.has(key));
    for (const [title, keys] of [["front", told.front], ["controls", told.controls], ["others", others]]) {
      if (!keys.length) continue;
      const group = document.createElement("optgroup");
      group.label = title;
      group.append(...keys.map(option));
      byId("choice").append(group);
    }
  }

  choices();
  byId("choice").addEventListener("change", (event) => select(event.target.value));
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-network]");
    if (row && String(getSelection()) === "") select(row.dataset.network);
  });
  for (const script of document.querySelectorAll("script[data-figure]")) observer.observe(byId(script.dataset.figure));
  const first = told.first ?? Object.keys(told.networks)[0];
  if (first === undefined) {
    byId("choice").closest("p").hidden = true;
    for (const id of ["figure-channels", "figure-gammas", "figure-classes"]) redraw(id);
  } else select(first);

  // Paper: everything drawn, everything unfolded, at the width of a page.

  const folded = [], heights_px = new Map();
  addEventListener("beforeprint", () => {
    pause();
    for (const item of document.querySelectorAll("details:not([open])")) {
      folded.push(item);
      item.open = true;
    }
    for (const id of figures.keys()) {
      const div = byId(id);
      if (!div.hidden) draw(div);
    }
    for (const id of drawn) {
      const width = byId(id).closest(".grid") ? 330 : 680;
      heights_px.set(id, byId(id).layout.height);
      Plotly.relayout(byId(id), {width, height: Math.min(940, byId(id).layout.height), autosize: false});
    }
  });
  addEventListener("afterprint", () => {
    for (const item of folded.splice(0)) item.open = false;
    for (const id of drawn) Plotly.relayout(byId(id), {width: null, height: heights_px.get(id), autosize: true});
  });
})();
