/** Whether management answered when it was last asked. */
import { useSyncExternalStore } from "react";

const listeners = new Set<() => void>();
let away = false;

export function useIsAway(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => away,
  );
}

export function heard(): void {
  set(false);
}

/** Gives the error back, to be thrown. */
export function unheard<E>(error: E): E {
  set(true);
  return error;
}

function set(now: boolean): void {
  if (now === away) return;
  away = now;
  listeners.forEach((listener) => listener());
}
