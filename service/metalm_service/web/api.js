// The service, asked as anybody may ask it.

let token = "";

export function useToken(text) {
  token = text.trim();
}

export function hasToken() {
  return token !== "";
}

// Beside the page, wherever a proxy has put it.
export function urlOf(path) {
  const beside = new URL(".", document.baseURI);
  // The browser has them already: fetch refuses an address with them, and no line is to show them.
  beside.username = beside.password = "";
  return new URL(path, beside).href;
}

// An answer that is none: the service's own words (RFC 9457), or that there was none.
export class Problem extends Error {
  constructor(status, told, retryAfterS) {
    super(told.detail ?? "the service does not answer");
    this.status = status;
    this.reason = told.reason ?? "";
    this.field = told.field ?? "";
    this.retryAfterS = retryAfterS;
  }

  get passes() {
    return this.status === 0 || this.status >= 500;
  }
}

// Rejects with Problem, and with an AbortError where the signal says so.
export async function ask(path, signal) {
  let response;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    response = await fetch(urlOf(path), { headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {}, 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ detail: `${response.status} ${response.statusText}` }));
  throw new Problem(response.status, told, Number(response.headers.get("Retry-After") ?? 0));
}
