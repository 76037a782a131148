// The page of `himix serve`: what any client of the server does, in a browser.

const $ = (id) => document.getElementById(id);
const MOST_BYTES = 16 << 20; // of a picture; a request holds it with a third more
const state = { image: null, said: [], stop: null };

start();

function start() {
  $("pick").onclick = () => $("image").click();
  $("image").onchange = () => {
    const [file] = $("image").files;
    $("image").value = ""; // the same file may be picked again
    if (file) setImage(file);
  };
  $("clear").onclick = () => setImage(null);
  $("key").onchange = findModels;
  $("form").onsubmit = (event) => (event.preventDefault(), ask($("prompt").value));
  $("stop").onclick = () => state.stop?.abort();
  const drop = $("drop");
  drop.ondragover = (event) => (event.preventDefault(), drop.classList.add("over"));
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) setImage(event.dataTransfer.files[0]);
  };
  findModels();
}

function say(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = `status ${kind}`;
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** What an error's body says, or its status. */
async function problem(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `The server answers with ${response.status}.`);
}

async function findModels() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    $("key-field").hidden = response.status !== 401 && !$("key").value;
    if (!response.ok) throw await problem(response);
    const { data } = await response.json();
    $("model").replaceChildren(...data.map(({ id }) => new Option(id, id)));
    $("model").disabled = false;
    say("model-status", "");
  } catch (error) {
    say("model-status", error.message, "bad");
  }
}

/** What the next questions are about: a file, or nothing. */
async function setImage(file) {
  say("image-status", "");
  state.image = null;
  state.said = [];
  $("preview").hidden = true;
  $("drop-hint").hidden = false;
  $("clear").disabled = true;
  if (!file) return;
  try {
    if (file.size > MOST_BYTES) throw new Error("Pictures over 16 MiB are too large for this page.");
    const [url, bitmap] = await Promise.all([dataUrl(file), createImageBitmap(file)]);
    state.image = url;
    show(bitmap);
  } catch (error) {
    say("image-status", error.message || "This is no picture that the browser can read.", "bad");
  }
}

function show(bitmap) {
  const canvas = $("preview");
  const scale = Math.min(1, 960 / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.classList.toggle("tiny", Math.max(canvas.width, canvas.height) < 192);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  canvas.hidden = false;
  $("drop-hint").hidden = true;
  $("clear").disabled = false;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

async function ask(prompt) {
  if (!prompt.trim() || state.stop) return;
  say("talk-status", "");
  if (!$("follow-up").checked) state.said = [];
  const picture = state.image && !state.said.length ? [{ type: "image_url", image_url: { url: state.image } }] : [];
  const messages = [...state.said, { role: "user", content: [...picture, { type: "text", text: prompt }] }];
  const turn = newTurn(prompt);
  state.stop = new AbortController();
  $("ask").hidden = true;
  $("stop").hidden = false;
  try {
    const began = performance.now();
    let first = 0;
    const answer = await stream(messages, (text) => {
      first ||= performance.now() - began;
      turn.answer.textContent += text;
    });
    turn.facts.textContent = first ? `${first.toFixed(0)} ms to the first text` : "";
    state.said = [...messages, { role: "assistant", content: answer }];
    $("prompt").value = "";
  } catch (error) {
    if (error.name !== "AbortError") say("talk-status", error.message, "bad");
  } finally {
    turn.element.classList.remove("running");
    state.stop = null;
    $("ask").hidden = false;
    $("stop").hidden = true;
  }
}

function newTurn(prompt) {
  const element = document.createElement("div");
  const [question, answer, facts] = ["question", "answer", "facts"].map((name) => {
    const part = document.createElement("p");
    part.className = name;
    return part;
  });
  question.textContent = prompt;
  element.className = "turn running";
  element.append(question, answer, facts);
  $("log-empty")?.remove();
  $("log").append(element);
  $("log").scrollTop = $("log").scrollHeight;
  return { element, answer, facts };
}

/** The answer's text; `onText` is given each piece of it. */
async function stream(messages, onText) {
  const body = JSON.stringify({ model: $("model").value, messages, stream: true });
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    body,
    signal: state.stop.signal,
  });
  if (!response.ok) throw await problem(response);
  let [answer, rest] = ["", ""];
  for await (const text of decoded(response.body)) {
    const events = (rest + text).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return answer;
      const { error, choices } = JSON.parse(data);
      if (error) throw new Error(error.message);
      const piece = choices[0]?.delta.content ?? "";
      answer += piece;
      if (piece) onText(piece);
    }
  }
  throw new Error("The answer ended in its middle.");
}

async function* decoded(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
