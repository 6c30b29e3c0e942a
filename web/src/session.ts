/**
 * Who is signed in, and how a request proves it: with a token, or with the cookie that a login has set, which the browser
 * sends by itself and no script can read.
 */
import { useSyncExternalStore } from "react";

export interface Session {
  /** `undefined` when the cookie is the proof. */
  token?: string;
  /** The full name of whoever it is. */
  user: string;
  /** The node at the top of what is shown: the organization, or as much of it as was given to this user. */
  top: string;
}

/** Kept for as long as the tab is open, and for no other tab. */
const KEY = "tombolo.session";

const listeners = new Set<() => void>();
let current: Session | null = stored();

export function useSession(): Session | null {
  return useSyncExternalStore(subscribe, () => current);
}

export function signIn(session: Session): void {
  sessionStorage.setItem(KEY, JSON.stringify(session));
  set(session);
}

/** In this tab. What the cookie opens is ended with `auth:logout`. */
export function signOut(): void {
  sessionStorage.removeItem(KEY);
  set(null);
}

/** What a request of this session carries. */
export function proof(session: Pick<Session, "token"> | null = current): Record<string, string> {
  return session?.token ? { authorization: `Bearer ${session.token}` } : {};
}

function set(session: Session | null): void {
  current = session;
  listeners.forEach((listener) => listener());
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function stored(): Session | null {
  if (typeof sessionStorage === "undefined") return null;
  try {
    const session = JSON.parse(sessionStorage.getItem(KEY) ?? "null") as Session | null;
    // Of an older build, which did not know who it was.
    return session?.user ? session : null;
  } catch {
    return null;
  }
}
