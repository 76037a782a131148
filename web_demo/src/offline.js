// The page's side of service_worker.js.

import { OFFLINE } from "./delivery.js";

const RELOADED = "himix reloaded";

/**
 * Let the service worker keep the page, and load it once more where that gives it threads. Without service workers (no
 * https, a private window) the page works as it is.
 *
 * @param onNewer called with a function that takes over a newer version of the page, when there is one.
 */
export async function keepOffline(onNewer) {
  const workers = navigator.serviceWorker;
  if (!OFFLINE || !workers) return;
  const registration = await workers.register("service_worker.js").catch(() => null);
  if (!registration) return;
  const first = !workers.controller;
  if (first) await settled(registration.installing ?? registration.waiting ?? registration.active);
  watch(registration, onNewer);
  if (self.crossOriginIsolated || !workers.controller || sessionStorage.getItem(RELOADED)) {
    sessionStorage.removeItem(RELOADED);
    return;
  }
  sessionStorage.setItem(RELOADED, "yes"); // once: a browser may grant no isolation at all
  location.reload();
  await new Promise(() => {});
}

/** Until the worker is at work, or has failed. */
function settled(worker) {
  return new Promise((resolve) => {
    const look = () => ["activated", "redundant"].includes(worker.state) && resolve();
    worker.addEventListener("statechange", look);
    look();
  });
}

function watch(registration, onNewer) {
  const tell = (worker) => {
    if (worker?.state !== "installed" || !navigator.serviceWorker.controller) return;
    onNewer(() => {
      navigator.serviceWorker.addEventListener("controllerchange", () => location.reload());
      worker.postMessage("take over");
    });
  };
  tell(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker.addEventListener("statechange", () => tell(worker));
  });
}
