// What went wrong, in words that say what to do about it.

export class Failure extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }

  static unreachable() {
    return new Failure("The gateway cannot be reached. Check the connection, then ask again.");
  }

  static broken() {
    return new Failure("The connection broke before the answer was complete. Ask again.");
  }

  // From the error object in a stream, whose status was sent before the error was known.
  static fromError(error) {
    return new Failure(words(0, error.code, error.message), 0, error.code);
  }

  static async fromResponse(response) {
    const error = await response.json().then((body) => body.error ?? {}, () => ({}));
    const wait = response.headers.get("Retry-After");
    return new Failure(words(response.status, error.code, error.message, wait), response.status, error.code);
  }
}

function words(status, code, message, wait) {
  const said = message ? sentence(message) : "";
  const again = wait ? `Ask again in ${wait} s.` : "Ask again in a moment.";
  if (code === "stream_restarted") {
    return "The worker was lost, and the new answer is not the one that began here. Ask again.";
  }
  switch (status) {
    case 401: return "This gateway asks for an API key. Enter a valid one above.";
    case 403: return `Your API key does not allow this. ${said}`;
    case 408: return "Sending took too long. Try a smaller image or a better connection.";
    case 413: return "The image is too large for this gateway. Choose a smaller one.";
    case 429: return `${said || "Too many requests at once."} ${again}`;
    case 503: return `${said || "No worker is ready."} ${again}`;
    case 504: return `${said || "The answer took too long."} Ask again, or ask something shorter.`;
    case 502: return `The gateway does not answer. ${again}`;
  }
  if (status >= 500) return `The gateway failed on this question. ${said} ${again}`;
  return said || "The question could not be answered. Ask again.";
}

function sentence(text) {
  const begun = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
