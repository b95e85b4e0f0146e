// Draws the plots from the page's own table, which is what readers without scripts see.
(() => {
  "use strict";
  const table = document.getElementById("hours");
  if (!table) return;

  const rows = [...table.tBodies[0].rows].map((row) => ({
    version: row.dataset.version,
    hour: Number(row.dataset.hour),
    requests: Number(row.dataset.requests),
    p50: Number(row.dataset.p50),
    p95: Number(row.dataset.p95),
    p99: Number(row.dataset.p99),
    errors: Number(row.dataset.rate) * 100,
  }));
  const marks = [...document.querySelectorAll("#marks [data-at]")].map((mark) => ({
    at: Number(mark.dataset.at), text: mark.dataset.text, back: mark.dataset.back === "yes",
  }));
  const from = Number(table.dataset.from);
  const to = Number(table.dataset.to);
  const hours = [];
  for (let hour = from; hour <= to; hour += 3600) hours.push(hour);
  const versions = [...new Set(rows.map((row) => row.version))];
  const known = new Map(rows.map((row) => [`${row.version} ${row.hour}`, row]));
  const value = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // light-dark() is resolved only where it is used, so a colour is read from an element.
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const font = `12px ${value("--pico-font-family-sans-serif") || "sans-serif"}`;
  const dashes = [[], [8, 4], [3, 3], [12, 4, 3, 4]];
  // Midnight carries the day, other hours the time, both as the reader writes them.
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const moments = (_, splits) => splits.map((at) => {
    const date = new Date(at * 1000);
    return date.getHours() === 0 ? day.format(date) : hour.format(date);
  });

  const lines = {
    hooks: {
      draw: [(plot) => {
        const { ctx, bbox } = plot;
        ctx.save();
        ctx.font = `${12 * devicePixelRatio}px sans-serif`;
        const ends = [0, 0, 0];
        for (const mark of [...marks].sort((one, other) => one.at - other.at)) {
          if (mark.at < from || mark.at > to + 3600) continue;
          const x = Math.round(plot.valToPos(mark.at, "x", true));
          ctx.strokeStyle = colour(mark.back ? "--bad" : "--quiet");
          ctx.setLineDash(mark.back ? [4, 4] : []);
          ctx.lineWidth = devicePixelRatio;
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
          ctx.fillStyle = colour("--ink");
          const wide = ctx.measureText(mark.text).width;
          const fits = x + 4 + wide < bbox.left + bbox.width;
          const left = fits ? x + 4 : x - 4 - wide;
          // The first line of text that is still free here, so that no two lie over each other.
          const row = Math.max(0, ends.findIndex((end) => end < left));
          ends[row] = left + wide + 4;
          ctx.textAlign = "left";
          ctx.fillText(mark.text, left, bbox.top + (12 + 14 * row) * devicePixelRatio);
        }
        ctx.restore();
      }],
    },
  };

  const draw = (place) => {
    const field = place.dataset.plot;
    const unit = place.dataset.unit;
    const digits = Number(place.dataset.digits);
    const word = (number) => (number == null ? "–"
      : number.toLocaleString(undefined, { maximumFractionDigits: digits }));
    const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line") }, font };
    const data = [hours, ...versions.map((version) => hours.map((hour) => {
      const row = known.get(`${version} ${hour}`);
      return row ? row[field] : null;
    }))];
    return new uPlot({
      width: place.clientWidth,
      height: 220,
      cursor: { sync: { key: "hours" } },
      scales: { x: { range: [from, to + 3600] }, y: { range: (_, __, most) => [0, most * 1.15 || 1] } },
      axes: [{ ...axis, values: moments, space: 70 }, { ...axis, size: 64, values: (_, marks_) => marks_.map((one) => `${word(one)}${unit}`) }],
      series: [{ label: "Hour", value: (_, at) => (at == null ? "–" : exact.format(at * 1000)) }, ...versions.map((version) => ({
        label: version,
        stroke: colour(`--c${Number(version.slice(1)) % 8}`),
        width: 2,
        dash: dashes[Number(version.slice(1)) % dashes.length],
        points: { show: hours.length < 60, size: 6 },
        value: (_, number) => `${word(number)}${number == null ? "" : unit}`,
      }))],
      plugins: [lines],
    }, data, place);
  };

  const places = [...document.querySelectorAll("[data-plot]")];
  let plots = [];
  const redraw = () => {
    for (const plot of plots) plot.destroy();
    for (const place of places) place.hidden = false;
    plots = places.map(draw);
  };
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    plots.forEach((plot, index) => plot.setSize({ width: places[index].clientWidth, height: 220 }));
  });
})();
