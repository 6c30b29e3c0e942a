/** What management refuses, and what a person can do about it. */
import type { components } from "./generated";

export type ProblemDetails = components["schemas"]["Problem"];

/** Management has answered, and said no. */
export class Problem extends Error {
  constructor(readonly details: ProblemDetails) {
    super(details.detail);
  }

  get status(): number {
    return this.details.status;
  }

  /** The last word of its type, such as `plan-moved`. */
  get word(): string {
    return wordOf(this.details);
  }
}

/** Nobody has answered: management, or what stands between, is away. */
export class Away extends Error {
  constructor() {
    super("Management does not answer.");
  }
}

export function wordOf(details: Pick<ProblemDetails, "type">): string {
  return details.type.slice(details.type.lastIndexOf(":") + 1);
}

/** Of words whose detail says what is wrong and not what to do here. */
const ADVICE: Record<string, string> = {
  unauthenticated: "Sign in again. A token is revoked or expires; who issued it can give you another.",
  "not-found": "Check the name. What you may not read looks as if it did not exist.",
  stale: "Somebody has changed it since you opened it. Copy what you wrote, open it again, and change what is there now.",
  "plan-moved": "What the change would do has changed since you looked. Plan it again and look at the difference.",
  "needs-approval": "Submit the plan. Somebody else with the role that the policy names approves it, and then it is applied.",
  "invariant-broken": "The organization has ruled this out. Change the wish, or talk to who owns the invariant.",
  "not-enforced": "Nothing enforces this yet: kept as it is, it would only look like protection.",
  managed: "A program keeps this in step with a source outside. Change it there; what is forced here is drift there.",
  protected: "Take `deletionProtection` back first, in a change of its own.",
  "has-children": "Delete what stands below first.",
  "over-quota": "Delete what is not needed any more, or ask for a larger quota.",
  claimed: "Somebody else holds this name. Choose another, or ask its holder to give it up.",
  invalid: "Each line that is marked says what is wrong with it.",
  malformed: "Each line that is marked says what is wrong with it.",
  expired: "Submit it anew.",
  gone: "The history does not reach back that far.",
  "too-fast": "Wait a moment.",
  unavailable: "It is tried again. Until its database answers, what was written last may or may not have happened.",
};

export function adviceFor(word: string): string | undefined {
  return ADVICE[word];
}
