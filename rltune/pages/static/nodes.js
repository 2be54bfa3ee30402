// Nodes with their GPUs and slices as they are filled: one box a node, one cell a GPU.

import { colourOf, sized } from "./dom.js";

const GAP = 10, LABEL = 13, HEAD = 20, HIGH = 18;

export class NodeMap {
  // pick(key): a run was clicked; told(text): what the pointer is on
  constructor(canvas, pick, told) {
    Object.assign(this, { canvas, pick, told, nodes: [], bars: [], outlines: [], marked: null });
    canvas.addEventListener("click", (event) => {
      const bar = this.at(event);
      if (bar) this.pick(bar.key);
    });
    canvas.addEventListener("pointermove", (event) => this.told(this.words(event)));
    canvas.addEventListener("pointerleave", () => this.told(""));
  }

  // nodes: [{ name, pool, gpus, state }]; bars, outlines: [{ node, top, height, key, label }]
  show(nodes, bars, outlines, palette, marked = null) {
    Object.assign(this, { nodes, bars, outlines, palette, marked });
    this.draw();
  }

  layout(width) {
    const widest = Math.max(1, ...this.nodes.map((node) => node.gpus));
    const few = this.nodes.length <= 24;
    const cell = few ? 26 : Math.max(5, Math.min(14, Math.floor(900 / Math.sqrt(this.nodes.length * 10) / widest)));
    const box = { width: Math.max(widest * cell, few ? 110 : 34), height: (few ? HIGH + 8 : HIGH - 4) + LABEL };
    const across = Math.max(1, Math.floor((width + GAP) / (box.width + GAP)));
    const places = [], heads = [];
    let y = 0, column = 0, pool = null;
    this.nodes.forEach((node, k) => {
      if (node.pool !== pool) {
        if (k) y += box.height + GAP;
        column = 0;
        pool = node.pool;
        heads.push({ pool, y: y + 12 });
        y += HEAD;
      } else if (column === across) {
        column = 0;
        y += box.height + GAP;
      }
      places.push({ x: column++ * (box.width + GAP), y });
    });
    return { cell, box, places, heads, height: this.nodes.length ? y + box.height + 2 : 1 };
  }

  draw() {
    const width = this.canvas.parentElement.clientWidth;
    const at = (this.placed = this.layout(width));
    const c = sized(this.canvas, width, at.height), p = this.palette, high = at.box.height - LABEL;
    c.font = "11px system-ui, sans-serif";
    c.fillStyle = p.text;
    for (const head of at.heads) c.fillText(head.pool, 0, head.y, width);
    const names = this.nodes.length <= 200;
    this.nodes.forEach((node, k) => {
      const { x, y } = at.places[k];
      c.fillStyle = node.state && node.state !== "open" ? p.lost : p.soft;
      const label = names ? `${node.short ?? node.name}${node.state && node.state !== "open" ? ` · ${node.state}` : ""}` : "";
      c.fillText(label, x, y + LABEL - 3, at.box.width + GAP - 4);
      c.fillStyle = p.free;
      c.fillRect(x, y + LABEL, node.gpus * at.cell, high);
    });
    for (const bar of this.bars) {
      const r = this.box(bar);
      if (!r) continue;
      c.fillStyle = colourOf(bar.key, p.jobs);
      c.fillRect(r.x, r.y, r.w, r.h);
      if (bar.key === this.marked) {
        c.strokeStyle = p.text;
        c.lineWidth = 2;
        c.strokeRect(r.x + 1, r.y + 1, r.w - 2, r.h - 2);
      }
    }
    c.lineWidth = 1;
    for (const line of this.outlines) {
      const r = this.box(line);
      if (!r) continue;
      c.strokeStyle = p.text;
      c.strokeRect(r.x + 0.5, r.y + 0.5, r.w - 1, r.h - 1);
    }
    c.strokeStyle = p.page;
    this.nodes.forEach((node, k) => {
      const { x, y } = at.places[k];
      for (let gpu = 1; gpu < node.gpus; gpu++) {
        const left = Math.round(x + gpu * at.cell) + 0.5;
        c.beginPath();
        c.moveTo(left, y + LABEL);
        c.lineTo(left, y + LABEL + high);
        c.stroke();
      }
    });
  }

  box(bar) {
    const place = this.placed.places[bar.node];
    if (!place) return null;
    const { cell, box } = this.placed;
    return { x: place.x + bar.top * cell, y: place.y + LABEL, w: bar.height * cell, h: box.height - LABEL };
  }

  at(event) {
    const inside = (r) => r && event.offsetX >= r.x && event.offsetX < r.x + r.w && event.offsetY >= r.y && event.offsetY < r.y + r.h;
    return this.bars.find((bar) => inside(this.box(bar)));
  }

  words(event) {
    if (!this.placed) return "";
    const bar = this.at(event);
    if (bar) return `${this.nodes[bar.node].name}: ${bar.label}`;
    const { box, places } = this.placed;
    const k = places.findIndex((p) => event.offsetX >= p.x && event.offsetX < p.x + box.width && event.offsetY >= p.y && event.offsetY < p.y + box.height);
    return k < 0 ? "" : `${this.nodes[k].name}: free`;
  }
}
