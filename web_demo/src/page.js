// The page: everything with a DOM. The model is in worker.js.

import { Camera } from "./camera.js";
import { ModelClient } from "./client.js";
import { describe, InputError } from "./errors.js";
import { answerFacts, bundleFacts, timeRows } from "./facts.js";
import { decode } from "./image.js";
import { retainBundles } from "./kept.js";
import { knowledge } from "./knowledge.js";
import { deviceFacts } from "./limits.js";
import { keepOffline } from "./offline.js";

const $ = (id) => document.getElementById(id);
const camera = new Camera($("video"));
const device = deviceFacts(navigator);
const state = { loaded: null, file: null, isExample: false, source: null, busy: false, times: {} };

say("model-status", "Starting…");
await keepOffline(offerNewer);
const model = new ModelClient();
start();

function start() {
  $("bundle").onchange = () => load(served());
  $("compute").onchange = () => state.source && load(state.source);
  picker("pick-folder", "folder", (files) => load({ files }));
  picker("pick-zip", "zip", ([zip]) => load({ zip }));
  picker("pick-image", "image", ([file]) => setImage(file));
  $("example").onclick = setExample;
  $("clear-image").onclick = () => setImage(null);
  $("camera").onclick = () => guarded("image-status", openCamera);
  $("shoot").onclick = () => guarded("image-status", async () => (showCamera(false), setImage(await camera.shoot())));
  $("camera-off").onclick = () => (camera.stop(), showCamera(false));
  $("form").onsubmit = (event) => (event.preventDefault(), ask($("prompt").value));
  $("stop").onclick = () => model.cancel();
  $("self-test").onclick = selfTest;
  $("benchmark").onclick = benchmark;
  dropTarget();
  showTimes();
  findBundles();
}

/** A button that opens a file input; `use` gets the files. */
function picker(button, input, use) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => {
    const files = [...$(input).files];
    $(input).value = ""; // the same file may be picked again
    if (files.length) use(files);
  };
}

/** Run `work`; what goes wrong is shown in the element `status`. */
async function guarded(status, work) {
  say(status, "");
  try {
    return await work();
  } catch (error) {
    say(status, describe(error), "bad");
    return undefined;
  }
}

function say(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = `status ${kind}`;
}

// ---- the model

async function findBundles() {
  const folder = new URL("bundles/", document.baseURI).href;
  const response = await fetch(`${folder}index.json`).catch(() => null);
  const names = response?.ok ? await response.json().catch(() => []) : [];
  const wanted = new URLSearchParams(location.search);
  $("compute").value = ["webgpu", "wasm"].includes(wanted.get("compute")) ? wanted.get("compute") : "auto";
  if (!Array.isArray(names) || !names.length) {
    return say("model-status", "No bundle lies beside this page (bundles/index.json); open a folder or a zip.");
  }
  await retainBundles(folder, names.map(address));
  $("bundle").replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(wanted.get("bundle"))) $("bundle").value = wanted.get("bundle");
  $("bundle").disabled = false;
  return load(served());
}

async function load(source) {
  state.loaded = null;
  state.source = source;
  refresh();
  $("load-progress").hidden = false;
  $("load-progress").scrollIntoView({ block: "nearest" }); // from the buttons below, on a phone
  const loaded = await guarded("model-status", () => {
    say("model-status", "Reading and checking the bundle…");
    return model.call("load", { ...source, compute: $("compute").value, device }, ({ done, of }) => {
      $("load-progress").value = done / of;
    });
  });
  $("load-progress").hidden = true;
  if (!loaded) return;
  state.loaded = loaded;
  state.times = {};
  showTimes();
  say("model-status", bundleFacts(loaded));
  $("knowledge").textContent = knowledge(loaded.manifest);
  for (const result of ["self-test-result", "benchmark-result"]) say(result, "");
  const { generation, selftest } = loaded.manifest;
  $("max-tokens").value = generation.max_new_tokens;
  $("temperature").value = generation.temperature;
  $("top-p").value = generation.top_p;
  const prompts = new Set([selftest.prompt, "Describe the image."]);
  $("suggestions").replaceChildren(...[...prompts].map(suggestion));
  if (!$("prompt").value) $("prompt").value = selftest.prompt;
  await (state.file && !state.isExample ? setImage(state.file) : setExample());
}

/** The chosen one of the bundles beside this page. */
function served() {
  return { url: address($("bundle").value) };
}

function address(name) {
  return new URL(`bundles/${encodeURIComponent(name)}/`, document.baseURI).href;
}

/** `takeOver` loads the newer version of the page that is there. */
function offerNewer(takeOver) {
  $("newer").hidden = false;
  $("take-over").onclick = takeOver;
}

function suggestion(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.onclick = () => (($("prompt").value = text), ask(text));
  return button;
}

// ---- the image

/** What the next questions are about: a file that the user chose, the bundle's example, or nothing. */
async function setImage(file, isExample = false) {
  Object.assign(state, { file, isExample });
  if (!file) $("preview").hidden = true;
  $("drop-hint").hidden = Boolean(file);
  await guarded("image-status", async () => {
    const sent = state.loaded ? model.call("setImage", { file }) : null; // before any question, shown or not
    try {
      await Promise.all([sent, file ? preview(file) : null]);
    } catch (error) {
      if (state.file === file) await setImage(null);
      throw error;
    }
  });
  refresh();
}

function setExample() {
  return setImage(new File([state.loaded.example], "example"), true);
}

async function preview(file) {
  const bitmap = await decode(file);
  if (state.file !== file) return bitmap.close(); // another one was chosen meanwhile
  const scale = Math.min(1, 960 / Math.max(bitmap.width, bitmap.height));
  const canvas = $("preview");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the model sees transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  canvas.classList.toggle("tiny", canvas.width < 192);
  canvas.setAttribute("aria-label", `The image: ${file.name}`);
  canvas.hidden = false;
}

async function openCamera() {
  showCamera(true);
  await camera.start().catch((error) => {
    showCamera(false);
    throw error;
  });
  $("shoot").focus();
}

function showCamera(on) {
  $("video").hidden = !on;
  $("camera-actions").hidden = !on;
  $("image-actions").hidden = on;
  $("preview").hidden = on || !state.file;
  $("drop-hint").hidden = on || Boolean(state.file);
}

function dropTarget() {
  document.ondragover = (event) => (event.preventDefault(), $("drop").classList.add("over"));
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file?.name.endsWith(".zip")) load({ zip: file });
    else if (file) setImage(file);
  };
}

// ---- the conversation

async function ask(prompt) {
  if (!state.loaded || state.busy) return;
  const turn = addTurn(prompt);
  await busy(async () => {
    const result = await guarded("talk-status", () => {
      const options = {
        prompt,
        followUp: $("follow-up").checked,
        maxNewTokens: Number($("max-tokens").value),
        temperature: Number($("temperature").value),
        topP: Number($("top-p").value),
      };
      return model.call("ask", options, ({ text }) => {
        turn.answer.append(text);
        $("log").scrollTop = $("log").scrollHeight;
      });
    });
    turn.element.classList.remove("running");
    if (!result) return turn.element.remove();
    turn.facts.textContent = answerFacts(result);
    $("log").scrollTop = $("log").scrollHeight;
    if (result.image) {
      state.times[result.warm ? "warm" : "cold"] = result.stats;
      if (!result.warm) delete state.times.warm; // of the image before
      showTimes();
    }
  });
}

function addTurn(prompt) {
  $("log-empty")?.remove();
  const element = document.createElement("div");
  element.className = "turn running";
  const [question, answer, facts] = ["question", "answer", "facts"].map((name) => {
    const line = document.createElement("p");
    line.className = name;
    element.append(line);
    return line;
  });
  question.textContent = prompt;
  $("log").append(element);
  $("log").scrollTop = $("log").scrollHeight;
  return { element, answer, facts };
}

function showTimes() {
  const rows = timeRows(state.times).map(({ name, cells, total }) => {
    const row = document.createElement("tr");
    row.className = total ? "total" : "";
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    for (const cell of cells) row.insertCell().textContent = cell;
    return row;
  });
  $("times").replaceChildren(...rows);
}

// ---- checks

async function selfTest() {
  await busy(async () => {
    const result = await guarded("self-test-result", () => {
      say("self-test-result", "Running…");
      return model.call("selftest");
    });
    if (!result) return;
    const { passed, pixels, answer, expected } = result;
    const text = passed
      ? `Self-test passed: same pixels, same tokens (“${answer}”).`
      : `Self-test failed: pixels ${pixels}, answer “${answer}”, expected “${expected}”.`;
    say("self-test-result", text, passed ? "good" : "bad");
  });
}

async function benchmark() {
  $("benchmark-progress").hidden = false;
  await busy(async () => {
    const record = await guarded("benchmark-result", () => {
      const params = { page: location.href, userAgent: navigator.userAgent };
      return model.call("benchmark", params, ({ done, of }) => ($("benchmark-progress").value = done / of));
    });
    if (!record) return;
    say("benchmark-result", [`Record saved: ${record.verdict}.`, ...record.reasons].join(" "), "good");
    save(JSON.stringify([record], null, 1), `himix-${record.bundle.name}-browser.json`);
  });
  $("benchmark-progress").hidden = true;
}

function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- what can be done now

async function busy(work) {
  state.busy = true;
  refresh();
  try {
    await work();
  } finally {
    state.busy = false;
    refresh();
  }
}

function refresh() {
  const ready = Boolean(state.loaded) && !state.busy;
  for (const id of ["ask", "self-test", "benchmark", "example"]) $(id).disabled = !ready;
  for (const button of $("suggestions").children) button.disabled = !ready;
  for (const id of ["compute", "pick-folder", "pick-zip", "pick-image", "camera"]) $(id).disabled = state.busy;
  $("bundle").disabled = state.busy || !$("bundle").options.length;
  $("clear-image").disabled = !ready || !state.file;
  $("ask").hidden = state.busy;
  $("stop").hidden = !state.busy;
}
