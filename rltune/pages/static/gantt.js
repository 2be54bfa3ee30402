// Nodes over time: single runs where they are few, how full each node was where they are many.

import { colourOf, sized, tickLabel, ticks } from "./dom.js";

const TOP = 4, BOTTOM = 22;

export class Gantt {
  // letter: a or b, whose colour full nodes have; zoom(begin, end): another stretch is wished; go(time): another moment; pick(job); told(text)
  constructor(canvas, letter, wishes) {
    Object.assign(this, { canvas, letter, ...wishes, data: null, view: null, image: null });
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.told(""));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // meta: what the server tells of a schedule; clockOf(seconds) -> text
  begin(meta, clockOf) {
    Object.assign(this, { meta, clockOf, data: null, image: null });
  }

  give(data) {
    this.data = data;
    this.image = data.mode === "shares" ? this.shaded(data) : null;
  }

  shaded(data) {
    const image = document.createElement("canvas");
    image.width = data.steps;
    image.height = data.rows;
    const c = image.getContext("2d"), pixels = c.createImageData(data.steps, data.rows);
    const colour = bgr(this.palette[this.letter]), words = new Uint32Array(pixels.data.buffer);
    for (let k = 0; k < words.length; k++) words[k] = colour | (data.share[k] << 24);
    c.putImageData(pixels, 0, 0);
    return image;
  }

  recolour(palette) {
    this.palette = palette;
    if (this.data) this.give(this.data);
  }

  // view: { begin, end, at }; mark: { job, waits } or null
  draw(view, palette, mark) {
    if (this.palette?.a !== palette.a) this.recolour(palette);
    Object.assign(this, { view, palette, mark });
    const count = this.meta.nodes.length;
    const width = this.canvas.parentElement.clientWidth;
    const gpus = this.meta.nodes.reduce((sum, node) => sum + node.gpus, 0);
    this.inner = Math.max(120, Math.min(520, count <= 8 ? gpus * 16 : count * 14));
    const c = sized(this.canvas, width, this.inner + TOP + BOTTOM);
    this.left = width < 500 ? 62 : 92;
    this.wide = width - this.left;
    this.high = this.inner / count;
    c.fillStyle = palette.free;
    c.fillRect(this.left, TOP, this.wide, this.inner);
    c.save();
    c.beginPath();
    c.rect(this.left, TOP, this.wide, this.inner);
    c.clip();
    if (this.data) this.image ? this.drawShares(c) : this.drawBars(c);
    this.drawMark(c);
    c.restore();
    this.drawAxis(c);
  }

  x(time) {
    return this.left + ((time - this.view.begin) / (this.view.end - this.view.begin)) * this.wide;
  }

  time(x) {
    return this.view.begin + ((x - this.left) / this.wide) * (this.view.end - this.view.begin);
  }

  drawShares(c) {
    const from = this.x(this.data.begin), to = this.x(this.data.end);
    c.imageSmoothingEnabled = false;
    c.drawImage(this.image, from, TOP, to - from, this.inner);
  }

  drawBars(c) {
    const d = this.data;
    for (let k = 0; k < d.start.length; k++) {
      const r = this.rect(d.node[k], d.top[k], d.height[k], d.start[k], d.end[k]);
      c.fillStyle = colourOf(d.job[k], this.palette.jobs);
      c.fillRect(r.x, r.y, Math.max(r.w, 0.7), Math.max(r.h, 0.7));
      if (this.mark && this.mark.job === d.job[k]) {
        c.strokeStyle = this.palette.text;
        c.lineWidth = 2;
        c.strokeRect(r.x, r.y, Math.max(r.w, 2), Math.max(r.h, 2));
      }
    }
    c.lineWidth = 1;
    c.strokeStyle = this.palette.soft;
    for (const o of d.outlines) {
      const r = this.rect(o.node, o.top, o.height, o.start, o.end);
      c.strokeRect(r.x + 0.5, r.y + 0.5, r.w - 1, r.h - 1);
    }
    if (d.outlines.length || this.meta.nodes.length <= 8) this.labels(c, d);
  }

  labels(c, d) {
    c.font = "11px system-ui, sans-serif";
    c.fillStyle = "#000";
    c.textBaseline = "middle";
    for (let k = 0; k < d.start.length; k++) {
      const r = this.rect(d.node[k], d.top[k], d.height[k], d.start[k], d.end[k]);
      const name = d.names[d.job[k]];
      if (name && r.h >= 11 && r.w > 6.5 * name.length) c.fillText(name, r.x + 3, r.y + r.h / 2);
    }
    c.textBaseline = "alphabetic";
  }

  rect(node, top, height, start, end) {
    const gpu = this.high / Math.max(1, this.meta.nodes[node].gpus);
    const x = this.x(start);
    return { x, y: TOP + node * this.high + top * gpu, w: this.x(end) - x, h: Math.max(height * gpu - (this.high > 20 ? 1 : 0), 0.5) };
  }

  drawMark(c) {
    for (const [from, to] of this.mark?.waits ?? []) {
      c.fillStyle = this.palette.mark;
      c.globalAlpha = 0.18;
      c.fillRect(this.x(from), TOP, Math.max(1, this.x(to) - this.x(from)), this.inner);
      c.globalAlpha = 1;
    }
    c.strokeStyle = this.palette.mark;
    c.lineWidth = 2;
    c.beginPath();
    c.moveTo(this.x(this.view.at), TOP);
    c.lineTo(this.x(this.view.at), TOP + this.inner);
    c.stroke();
  }

  drawAxis(c) {
    c.font = "11px system-ui, sans-serif";
    c.fillStyle = this.palette.soft;
    const every = Math.ceil(13 / this.high);
    this.meta.nodes.forEach((node, k) => {
      if (k % every === 0) c.fillText(node.name, 0, TOP + (k + 0.5) * this.high + 4, this.left - 6);
    });
    const { begin, end } = this.view, { begin: from, end: to } = this.meta;
    c.strokeStyle = this.palette.soft;
    c.lineWidth = 1;
    for (const time of ticks(begin, end, from, Math.max(2, Math.floor(this.wide / 110)))) {
      const x = Math.round(this.x(time)) + 0.5, label = tickLabel(time - from, to - from, end - begin);
      c.beginPath();
      c.moveTo(x, TOP + this.inner);
      c.lineTo(x, TOP + this.inner + 4);
      c.stroke();
      c.fillText(label, Math.min(x, this.left + this.wide - c.measureText(label).width), TOP + this.inner + 16);
    }
  }

  wheel(event) {
    // Without a modifier the wheel scrolls the page, as everywhere.
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    this.scale(Math.exp((event.deltaY || event.deltaX) * 0.002), this.time(event.offsetX));
  }

  scale(factor, around) {
    const { begin, end } = this.view;
    this.zoom(around - (around - begin) * factor, around + (end - around) * factor);
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { x: event.offsetX, ...this.view, moved: false };
  }

  move(event) {
    if (!this.drag) return this.told(this.words(event));
    const shift = event.offsetX - this.drag.x;
    if (Math.abs(shift) > 3) this.drag.moved = true;
    if (!this.drag.moved) return;
    const seconds = (-shift / this.wide) * (this.drag.end - this.drag.begin);
    this.zoom(this.drag.begin + seconds, this.drag.end + seconds);
  }

  up(event) {
    const moved = this.drag?.moved;
    this.drag = null;
    if (moved || event.offsetX < this.left) return;
    this.go(this.time(event.offsetX));
    const k = this.barAt(event);
    if (k >= 0) this.pick(this.data.job[k]);
  }

  key(event) {
    const { begin, end, at } = this.view, step = (end - begin) / 20;
    const acts = {
      ArrowLeft: () => this.go(at - step), ArrowRight: () => this.go(at + step),
      "+": () => this.scale(0.5, at), "=": () => this.scale(0.5, at), "-": () => this.scale(2, at),
      Home: () => this.zoom(-Infinity, Infinity),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  barAt(event) {
    const d = this.data;
    if (!d || this.image) return -1;
    for (let k = d.start.length - 1; k >= 0; k--) {
      const r = this.rect(d.node[k], d.top[k], d.height[k], d.start[k], d.end[k]);
      if (event.offsetX >= r.x && event.offsetX <= r.x + Math.max(r.w, 2) && event.offsetY >= r.y && event.offsetY < r.y + r.h) return k;
    }
    return -1;
  }

  words(event) {
    const node = this.meta.nodes[Math.floor((event.offsetY - TOP) / this.high)];
    if (!node || event.offsetX < this.left) return "";
    const when = `${node.name}, ${this.clockOf(this.time(event.offsetX))}`;
    if (!this.image) {
      const k = this.barAt(event), name = k < 0 ? undefined : this.data.names[this.data.job[k]];
      return name === undefined ? when : `${when}: ${name}`;
    }
    const d = this.data, row = Math.floor((event.offsetY - TOP) / this.inner * d.rows);
    const step = Math.floor(((this.time(event.offsetX) - d.begin) / (d.end - d.begin)) * d.steps);
    const share = d.share[row * d.steps + step];
    return share === undefined ? when : `${when}: ${Math.round(share / 2.55)} % in use`;
  }
}

// A colour such as #1f6fb4 as the lower bytes of a pixel, red first in memory.
function bgr(colour) {
  const value = parseInt(colour.slice(1), 16);
  return ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
}
