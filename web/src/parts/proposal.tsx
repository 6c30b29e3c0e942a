/** A wish on its way to being done: planned, looked at, applied or submitted, and followed until the proxies run it. */
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type ReactNode } from "react";
import { api, ask, type Changed } from "../api/client";
import { Problem } from "../api/problem";
import { go, guardLeaving } from "../router";
import { isSettled } from "../text/outcome";
import { Asked } from "./asked";
import { submitted } from "./form";
import { StatusView } from "./outcome";
import { Planned } from "./planned";
import { Refusal } from "./refusal";

/** How long management holds a question for a receipt: short, so that the share of proxies is seen to grow. */
const RECEIPT_WAIT = "1s";
const RECEIPT_PAUSE_MS = 200;
/** Of one change, how many resources are followed. */
const FOLLOWED_MAX = 5;

interface Props {
  /** As `POST /v1/plans` takes it. */
  wish: unknown;
  /** Tells what was wrong with it; `null` when nothing was. */
  onRefused?: (problem: Problem | null) => void;
  onCancel: () => void;
  onDone: () => void;
}

export function Proposal({ wish, onRefused, onCancel, onDone }: Props) {
  const queries = useQueryClient();
  const [allowUnenforced, setAllowUnenforced] = useState(false);
  const options = allowUnenforced ? { allowUnenforced } : {};
  const planned = useQuery({
    queryKey: ["plan", wish, allowUnenforced],
    queryFn: () => api.plan(wish, options),
    staleTime: Infinity,
    gcTime: 0,
  });
  const problem = planned.error instanceof Problem ? planned.error : null;
  useEffect(() => onRefused?.(problem), [problem, onRefused]);

  const apply = useMutation({
    mutationFn: (plan: string) => api.apply(wish, options, { "if-plan": plan }),
    onSuccess: (done) => {
      const gone = done.changes.filter((change) => change.action === "delete").map((change) => change.name);
      void queries.invalidateQueries({
        predicate: ({ queryKey: [about, name] }) => about !== "plan" && !gone.includes(String(name)),
      });
    },
  });

  if (apply.data) {
    return (
      <Receipts changed={apply.data}>
        <button type="button" onClick={onDone}>
          Done
        </button>
      </Receipts>
    );
  }
  const cancel = (
    <button type="button" className="quiet" onClick={onCancel}>
      Cancel
    </button>
  );
  if (problem) {
    return (
      <section className="proposal" aria-label="Plan">
        <Refusal error={problem}>
          {problem.word === "not-enforced" && (
            <button type="button" onClick={() => setAllowUnenforced(true)}>
              Keep it, although nothing enforces it
            </button>
          )}
        </Refusal>
        {cancel}
      </section>
    );
  }
  const refused = apply.error instanceof Problem ? apply.error.word : "";
  return (
    <section className="proposal" aria-label="Plan">
      <h2>What would change</h2>
      <Asked query={planned}>
        {(plan) => (
          <>
            <Planned plan={plan} />
            {apply.error && (
              <Refusal error={apply.error}>
                {refused === "plan-moved" && (
                  <button
                    type="button"
                    onClick={() => {
                      apply.reset();
                      void planned.refetch();
                    }}
                  >
                    Plan again
                  </button>
                )}
              </Refusal>
            )}
            {refused === "needs-approval" && <Submit wish={wish} allowUnenforced={allowUnenforced} />}
            <p className="buttons">
              <button
                type="button"
                className="primary"
                disabled={apply.isPending || plan.changes.every((change) => change.action === "unchanged")}
                onClick={() => apply.mutate(plan.plan)}
              >
                {apply.isPending ? "Applying …" : "Apply"}
              </button>
              {cancel}
            </p>
          </>
        )}
      </Asked>
    </section>
  );
}

function Submit({ wish, allowUnenforced }: { wish: unknown; allowUnenforced: boolean }) {
  const submit = useMutation({
    mutationFn: (description: string) => api.submit(wish, { description, ...(allowUnenforced && { allowUnenforced }) }),
    onSuccess: (kept) => {
      // What was written is in the plan.
      guardLeaving(null);
      go(`/plans/${kept.id}`);
    },
  });
  return (
    <form className="stack" onSubmit={submitted((form) => submit.mutate(String(form.get("description"))))}>
      <label>
        For those who are to approve it
        <input name="description" required placeholder="What it is good for" />
      </label>
      <button type="submit" disabled={submit.isPending}>
        Submit for approval
      </button>
      {submit.error && <Refusal error={submit.error} />}
    </form>
  );
}

/** Of what was applied, which clusters run it, as it comes to run. */
export function Receipts({ changed, children }: { changed: Changed; children?: ReactNode }) {
  const followed = changed.changes.filter(({ action }) => action === "create" || action === "update");
  return (
    <section className="proposal" aria-label="Receipt">
      <p role="status">
        <strong>Applied as revision {changed.revision}.</strong>
      </p>
      {followed.slice(0, FOLLOWED_MAX).map(({ name }) => (
        <Receipt key={name} name={name} revision={changed.revision} />
      ))}
      {children}
    </section>
  );
}

function Receipt({ name, revision }: { name: string; revision: number }) {
  const receipt = useQuery({
    queryKey: ["receipt", name, revision],
    queryFn: ({ signal }) => ask("receipt", name, { revision, wait: RECEIPT_WAIT }, signal),
    refetchInterval: ({ state }) =>
      state.data && isSettled(state.data.status.outcome) ? false : RECEIPT_PAUSE_MS,
  });
  return (
    <section aria-label={`Receipt of ${name}`}>
      <h4>{name}</h4>
      <Asked query={receipt}>{({ status }) => <StatusView status={status} />}</Asked>
    </section>
  );
}
