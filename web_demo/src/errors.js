/** Something that the person at the page can do something about; its message is shown as it is. */
export class InputError extends Error {
  name = "InputError";
}

/** One line about `error` that may be shown: never a stack trace. */
export function describe(error) {
  const line = String(error?.message ?? error).split("\n", 1)[0].slice(0, 300);
  return error instanceof InputError ? line : `That failed unexpectedly: ${line}`;
}
