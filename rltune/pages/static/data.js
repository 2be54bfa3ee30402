// Requests: JSON, packed columns, and one at a time for what follows a slider.

export async function getJson(path) {
  const answer = await fetch(path);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error || `${path}: ${answer.status}`);
  return told;
}

const TYPES = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

// What rltune.inspect.windows.packed writes: length of a JSON head, the head, then its columns.
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const columns = {};
  for (const [name, [type, count]] of Object.entries(head.columns)) {
    columns[name] = new TYPES[type](buffer, at, count);
    at += Math.ceil((count * TYPES[type].BYTES_PER_ELEMENT) / 8) * 8;
  }
  return { ...head, ...columns };
}

export async function getPacked(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).error || `${path}: ${answer.status}`);
  return unpack(await answer.arrayBuffer());
}

// Asks for the latest wish only: while an answer is under way, wishes in between are forgotten.
export class Latest {
  constructor(ask, show, failed) {
    Object.assign(this, { ask, show, failed, busy: false, wish: null });
  }

  want(wish) {
    this.wish = wish;
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    while (this.wish !== null) {
      const wish = this.wish;
      this.wish = null;
      try {
        this.show(await this.ask(wish), wish);
      } catch (error) {
        this.failed(error);
      }
    }
    this.busy = false;
  }
}
