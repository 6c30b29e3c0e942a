/** What became of a resource, in the words of a person. Nothing is called live on less than proof. */
import type { Status } from "../api/client";

export interface Told {
  word: string;
  tone: "good" | "moving" | "bad" | "warn" | "unsure";
  about: string;
}

export function outcomeOf(status: Pick<Status, "outcome"> & Partial<Status>): Told {
  switch (status.outcome) {
    case "running":
      return { word: "live", tone: "good", about: "every proxy that it concerns has proven that it runs it" };
    case "accepted":
      return (status.findings ?? []).some((finding) => finding.code === "NotEnforced")
        ? { word: "accepted, not enforced", tone: "warn", about: "a part of it is kept, and no plane enforces it yet" }
        : { word: "accepted", tone: "good", about: "acknowledged by all; some proxies acknowledge before they activate" };
    case "pending":
      return { word: "rolling out", tone: "moving", about: "on its way to the proxies" };
    case "rejected":
      return { word: "rejected", tone: "bad", about: "a proxy or a cluster refuses it, in the words below" };
    default:
      return { word: "unknown", tone: "unsure", about: "a cluster or one of its proxies cannot be heard" };
  }
}

/** Whether nothing more is to be waited for. */
export function isSettled(outcome: Status["outcome"]): boolean {
  return outcome === "running" || outcome === "accepted" || outcome === "rejected";
}

/** Proxies that run it, of those that it concerns: `3/4`. */
export function share(status: { proxies: number; proxiesWith: number }): string {
  return `${status.proxiesWith}/${status.proxies}`;
}
