/** The address of the browser is the state of the admin: what is shown can be sent to a colleague. */
import { useSyncExternalStore, type AnchorHTMLAttributes, type MouseEvent } from "react";

const listeners = new Set<() => void>();
/** Asks whether to leave, where something would be lost. */
let guard: (() => boolean) | null = null;

addEventListener("popstate", () => listeners.forEach((listener) => listener()));

export function useAddress(): URL {
  const href = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => location.href,
  );
  return new URL(href);
}

export function go(to: string): void {
  if (guard && !guard()) return;
  guard = null;
  history.pushState(null, "", to);
  listeners.forEach((listener) => listener());
}

/** As `go`, and the way back skips what is shown now. */
export function replace(to: string): void {
  history.replaceState(null, "", to);
  listeners.forEach((listener) => listener());
}

export function guardLeaving(ask: (() => boolean) | null): void {
  guard = ask;
}

export function pathOf(name: string, tab?: string): string {
  return `/resources/${name}${tab ? `?tab=${tab}` : ""}`;
}

export function Link({ to, ...rest }: AnchorHTMLAttributes<HTMLAnchorElement> & { to: string }) {
  const follow = (event: MouseEvent) => {
    // With a key held, the browser opens a tab of its own.
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
  };
  return <a href={to} onClick={follow} {...rest} />;
}
