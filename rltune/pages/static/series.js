// Lines over time on uPlot: drag to zoom, click to go there.

import { tickLabel, ticks } from "./dom.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

export class Lines {
  // lines: [{ label, colour: name of a colour, fill }]; wishes: { zoom(begin, end), go(time) }; views: { begin, end, at, from, to }
  constructor(parent, lines, wishes, valueOf) {
    Object.assign(this, { parent, lines, wishes, valueOf, plot: null, view: null });
  }

  show(data, view, palette) {
    this.view = view;
    const width = this.parent.clientWidth;
    if (this.plot && this.palette === palette) {
      if (this.plot.width !== width) this.plot.setSize({ width, height: 150 });
      this.plot.setData(data, false);
      this.plot.setScale("x", { min: view.begin, max: view.end });
      return;
    }
    this.plot?.destroy();
    this.palette = palette;
    this.plot = new uPlot(this.options(width, palette), data, this.parent);
    this.plot.setScale("x", { min: view.begin, max: view.end });
  }

  redraw(view) {
    this.view = view;
    if (this.plot) this.plot.setScale("x", { min: view.begin, max: view.end });
  }

  options(width, palette) {
    const axis = { stroke: palette.soft, grid: { stroke: palette.line, width: 1 }, ticks: { stroke: palette.line, width: 1 }, font: "11px system-ui, sans-serif" };
    return {
      width, height: 150, legend: { show: false },
      scales: { x: { time: false, auto: false }, y: { range: (_, low, high) => [0, Math.max((high ?? 0) * 1.05, 1)] } },
      padding: [8, 12, 0, 0],
      axes: [
        { ...axis, size: 26, gap: 2, splits: (plot, _, low, high) => ticks(low, high, this.view.from, Math.max(2, Math.floor(plot.width / 120))), values: (_, marks) => marks.map((t) => tickLabel(t - this.view.from, this.view.to - this.view.from, this.view.end - this.view.begin)) },
        { ...axis, size: 60, values: (_, marks) => marks.map((v) => this.valueOf(v)) },
      ],
      series: [{}, ...this.lines.map((line) => ({ label: line.label, stroke: palette[line.colour], width: 1.5, points: { show: false }, fill: line.fill ? `${palette[line.colour]}22` : undefined }))],
      cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: {
        setSelect: [(plot) => this.selected(plot)],
        draw: [(plot) => this.cursorLine(plot)],
        ready: [(plot) => plot.over.addEventListener("click", (event) => this.clicked(plot, event))],
      },
    };
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.dragged = true;
    this.wishes.zoom(from, to);
  }

  clicked(plot, event) {
    if (this.dragged) this.dragged = false;
    else this.wishes.go(plot.posToVal(event.offsetX, "x"));
  }

  cursorLine(plot) {
    const x = Math.round(plot.valToPos(this.view.at, "x", true)), c = plot.ctx;
    if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) return;
    c.save();
    c.strokeStyle = this.palette.mark;
    c.lineWidth = 2 * devicePixelRatio;
    c.beginPath();
    c.moveTo(x, plot.bbox.top);
    c.lineTo(x, plot.bbox.top + plot.bbox.height);
    c.stroke();
    c.restore();
  }
}
