/** Something that the person at the page can do something about; its message is shown as it is. */
export class InputError extends Error {
  name = "InputError";

  constructor(message) {
    super(oneLine(message));
  }
}

const LONGEST = 600;
const BREAKING = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Files choose parts of a message: what would break the line, turn its direction or fill the page goes. */
export function oneLine(message) {
  const text = String(message);
  const cut = text.length > LONGEST ? `${text.slice(0, LONGEST)}...` : text;
  return cut.replace(BREAKING, "\ufffd");
}

/** One line about `error` that may be shown: never a stack trace. */
export function describe(error) {
  if (error instanceof InputError) return error.message;
  return `That failed unexpectedly: ${oneLine(String(error?.message ?? error).split("\n", 1)[0].slice(0, 300))}`;
}
