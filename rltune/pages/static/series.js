// Lines over time on uPlot: drag to zoom, click to go there.

import uPlot from "./vendor/uplot/uPlot.esm.js";

export class Lines {
  // lines: [{ label, colour: name of a colour, dash }]; wishes: { zoom(begin, end), go(time) }
  constructor(parent, title, lines, wishes, clockOf, valueOf) {
    Object.assign(this, { parent, lines, wishes, clockOf, valueOf, title, plot: null, view: null });
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
      scales: { x: { time: false, auto: false }, y: { range: (_, low, high) => [0, Math.max(high * 1.05, this.least ?? 1)] } },
      axes: [
        { ...axis, space: 130, values: (_, marks) => marks.map((t) => this.clockOf(t)) },
        { ...axis, size: 60, values: (_, marks) => marks.map((v) => this.valueOf(v)) },
      ],
      series: [{}, ...this.lines.map((line) => ({ label: line.label, stroke: palette[line.colour], width: 1.5, points: { show: false }, fill: line.fill ? `${palette[line.colour]}22` : undefined }))],
      cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: {
        setSelect: [(plot) => this.selected(plot)],
        drawSeries: [],
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
