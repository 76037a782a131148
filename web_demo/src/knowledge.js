// What a model can be asked about: what its bundle says that it was trained on.

import { oneLine } from "./errors.js";

const KNOWN = {
  "easy-vqa": "one colored shape on a plain background (easy-VQA)",
  "emoji-scenes": "scenes of emojis (EmojiScenes)",
  "emoji-captions": "captions of emoji pictures",
  "emoji-lists": "lists of the emojis in a picture",
};
const WRONG = "About any other picture it answers too, wrongly.";

/** One or two sentences about a bundle's `provenance`, which is free text: nothing in it is taken for granted. */
export function knowledge({ provenance }) {
  const training = provenance?.training;
  if (training && Object.hasOwn(Object(training), "random_weights")) {
    return "This model's weights are random: it knows nothing, and its answers mean nothing.";
  }
  const names = dataNames(training);
  if (!names.length) return "The bundle does not say what this model was trained on.";
  const known = names.map((name) => (Object.hasOwn(KNOWN, name) ? KNOWN[name] : name));
  const [shown, more] = [known.slice(0, 4), known.length - 4];
  return `This model was trained on ${shown.join(", ")}${more > 0 ? ` and ${more} more` : ""}. ${WRONG}`;
}

/** The data sets' names, also of the models that this one was made from. */
function dataNames(training) {
  const names = new Set();
  for (let part = training, depth = 0; part && typeof part === "object" && depth < 8; part = part.before, depth++) {
    for (const { name } of [part.data ?? []].flat().filter(Boolean)) {
      if (typeof name === "string" && name) names.add(oneLine(name).slice(0, 60));
    }
  }
  return [...names];
}
