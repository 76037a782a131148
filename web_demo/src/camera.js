// The camera, through getUserMedia: shown in a <video>, one picture taken as a PNG.

import { InputError } from "./errors.js";

const REASONS = {
  NotAllowedError: "the camera was not allowed; allow it in the browser's site settings",
  NotFoundError: "no camera was found",
  NotReadableError: "the camera is used by another program",
};

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
  }

  /** Show what the camera sees. Throws an InputError if there is none, or it is not allowed. */
  async start() {
    if (!navigator.mediaDevices) throw new InputError("no camera here: the page must be on https or localhost");
    try {
      const facing = { facingMode: { ideal: "environment" } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: facing, audio: false });
      this.#video.srcObject = this.#stream;
      await this.#video.play();
    } catch (error) {
      this.stop();
      throw new InputError(REASONS[error.name] ?? "the camera cannot be opened");
    }
  }

  /** One picture, as a File; the camera goes off. */
  async shoot() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.#video.videoWidth, this.#video.videoHeight];
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    this.stop();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (!blob) throw new InputError("the camera gave no picture");
    return new File([blob], "camera.png", { type: "image/png" });
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = this.#video.srcObject = null;
  }
}
