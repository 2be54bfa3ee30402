// Elements, and values as text. Whatever comes from a run or a service becomes a text node: nothing of it is ever read as HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined).map(text));
  return made;
}

function text(value) {
  return value instanceof Node ? value : document.createTextNode(String(value));
}

export function byId(name) {
  return document.getElementById(name);
}

export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined).map(text));
}

// Seconds as a length of time.
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const s = Math.abs(seconds);
  if (s < 10) return `${trim(seconds, 2)} s`;
  if (s < 120) return `${trim(seconds, 1)} s`;
  if (s < 7200) return `${trim(seconds / 60, 1)} min`;
  if (s < 172800) return `${trim(seconds / 3600, 1)} h`;
  return `${trim(seconds / 86400, 1)} d`;
}

// Seconds since the beginning as a clock: day and time of day, or seconds where all is short.
export function clock(seconds, span) {
  if (span < 7200) return `${seconds.toFixed(span < 60 ? 2 : span < 600 ? 1 : 0)} s`;
  const s = Math.max(0, Math.round(seconds));
  const two = (x) => String(x).padStart(2, "0");
  const day = `${two(Math.floor((s % 86400) / 3600))}:${two(Math.floor((s % 3600) / 60))}:${two(s % 60)}`;
  return `day ${Math.floor(s / 86400) + 1} ${day}`;
}

const STEPS_S = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000, 1728000, 2592000, 7776000, 31536000];

// Moments to write below a picture: at most so many, at round distances from the beginning of the run.
export function ticks(begin, end, from, most) {
  const step = STEPS_S.find((s) => (end - begin) / s <= most) ?? (end - begin) / most;
  const first = Math.ceil((begin - from) / step - 1e-9), found = [];
  for (let k = first; from + k * step <= end; k++) found.push(from + k * step);
  return found;
}

// A moment below a picture: without the time of day where marks are days apart.
export function tickLabel(seconds, span, shown) {
  const text = clock(seconds, span);
  if (!text.startsWith("day")) return shown < 20 ? `${trim(seconds, 3)} s` : text;
  return shown > 6 * 86400 ? text.replace(/ 00:00:00$/, "") : text.replace(/:00$/, "");
}

// GPU-seconds as GPU-hours or GPU-days.
export function gpuTime(seconds, unit = "GPU") {
  if (seconds === 0) return "0";
  if (Math.abs(seconds) < 3600) return `${trim(seconds / 60, 1)} ${unit}-min`;
  if (Math.abs(seconds) < 100 * 3600) return `${trim(seconds / 3600, 1)} ${unit}-h`;
  return `${number(seconds / 86400, seconds < 8640000 ? 1 : 0)} ${unit}-days`;
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function percent(share, digits = 0) {
  return share === null || share === undefined || Number.isNaN(share) ? "–" : `${number(100 * share, digits)} %`;
}

function trim(value, digits) {
  return number(Number(value.toFixed(digits)), digits);
}

// Colours of the style sheet, which follow light and dark.
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    text: of("--text"), soft: of("--soft"), line: of("--line"), page: of("--page"), free: of("--free"), mark: of("--mark"),
    a: of("--a"), b: of("--b"), jobs: Array.from({ length: 8 }, (_, k) => of(`--job${k}`)), lost: of("--bad"),
  };
}

export function onThemeChange(act) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", act);
}

// The same job has the same colour everywhere.
export function colourOf(key, palette) {
  if (typeof key === "number") return palette[(Math.imul(key, 0x9e3779b1) >>> 16) % palette.length];
  let h = 0;
  for (const c of String(key)) h = (h * 31 + c.charCodeAt(0)) | 0;
  return palette[Math.abs(h ^ (h >>> 7)) % palette.length];
}

// A canvas as wide as its parent, sharp on dense screens; its drawing context in CSS pixels.
export function sized(canvas, width, height) {
  const dense = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * dense)), Math.max(1, Math.round(height * dense))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
