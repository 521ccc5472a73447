// What the page asks its server. Every refusal becomes an Error with the server's own sentence.

const MOST_UPLOAD = 20 * 2 ** 20;

async function answered(response) {
  const kind = response.headers.get("content-type") || "";
  const value = kind.startsWith("application/json") ? await response.json() : { error: { message: await response.text() } };
  if (!response.ok) {
    const error = new Error(value.error?.message || response.statusText);
    error.status = response.status;
    throw error;
  }
  return value;
}

const GONE = "The editor no longer answers. Start it again: anyphoto layout edit FILE";
const ask = (path, options) => fetch(path, options).catch(() => { throw new Error(GONE); });

const send = (path, value, method = "POST") =>
  ask(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(value) }).then(answered);

export const api = {
  layout: () => ask("/api/layout").then(answered),
  check: (document) => send("/api/check", { document }),
  arrange: (document, preset, seed) => send("/api/arrange", { document, preset, seed }),
  save: (document, read, replace) => send("/api/save", { document, read, replace }),
  reference: (face) => ask(`/api/reference?${queryOf(face)}`).then(answered),
  render: (document) => send("/api/renders", { document }),
  history: () => ask("/api/renders").then(answered),
  cancel: (id) => send(`/api/renders/${id}`, {}, "DELETE"),
  upload(file) {
    // The server hangs up on larger ones, which a browser tells as nothing but a failure.
    if (file.size > MOST_UPLOAD) return Promise.reject(new Error("larger than 20 MB"));
    const form = new FormData();
    form.append("file", file, file.name);
    return ask("/api/references", { method: "POST", body: form }).then(answered);
  },
  watch(id, show) {
    const events = new EventSource(`/api/renders/${id}`);
    let failures = 0;
    events.onmessage = (event) => {
      failures = 0;
      const job = JSON.parse(event.data);
      if (["done", "failed", "cancelled"].includes(job.state)) events.close();
      show(job);
    };
    events.onerror = () => {
      failures += 1;  // a browser tries again by itself, for ever
      if (events.readyState !== EventSource.CLOSED && failures < 2) return;
      events.close();
      show({ id, state: "failed", told: GONE });
    };
    return events;
  },
};

export const pictureOf = (result) => `/api/pictures/${result.picture.split("/").map(encodeURIComponent).join("/")}`;
export const partOf = (part, face) => `/api/reference/${part}?${queryOf(face)}`;

// Whose face it is: that at the layout's own points, where it has some. What is known of it is kept under this, too.
export function queryOf({ reference, reference_landmarks: points }) {
  const named = `path=${encodeURIComponent(reference)}`;
  return points ? `${named}&landmarks=${encodeURIComponent(JSON.stringify(points))}` : named;
}
