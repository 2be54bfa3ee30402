// Asks the service with the token of this tab, and reads its events as they come.

const KEY = "rltune-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers() {
  return token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
}

export async function ask(path, method = "GET", body = undefined) {
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers: { ...headers(), ...more }, body: body === undefined ? undefined : JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, told.error);
  return told;
}

// A token in a header is more than EventSource can send, so that the stream is read by hand.
export async function follow(since, act, alive) {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  for (let last = since; ; await wait(2000)) {
    try {
      const answer = await fetch(`/v1/events?since=${last}`, { headers: headers() });
      if (answer.status === 401) return;
      if (!answer.ok) continue;
      alive(true);
      for await (const event of eventsOf(answer.body)) {
        last = event.seq;
        act(event);
      }
    } catch {
      // The service is away; it is asked again.
    }
    alive(false);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
      if (data) yield JSON.parse(data);
    }
  }
}
