/**
 * Who is signed in, and how a request proves it. The one file to change for another way to sign in: the client asks it
 * for headers, and the shell whether somebody is there.
 */
import { useSyncExternalStore } from "react";

export interface Session {
  token: string;
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

export function signOut(): void {
  sessionStorage.removeItem(KEY);
  set(null);
}

/** What a request of this session carries. */
export function proof(session: Pick<Session, "token"> | null = current): Record<string, string> {
  return session ? { authorization: `Bearer ${session.token}` } : {};
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
    return JSON.parse(sessionStorage.getItem(KEY) ?? "null") as Session | null;
  } catch {
    return null;
  }
}
