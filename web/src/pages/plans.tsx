/** Plans that wait for the approval of another person. */
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Changed, type KeptPlan } from "../api/client";
import { leaf } from "../api/name";
import { Asked } from "../parts/asked";
import { Planned } from "../parts/planned";
import { Receipts } from "../parts/proposal";
import { Refusal } from "../parts/refusal";
import { Link, pathOf } from "../router";
import { ago } from "../text/time";

const REFRESH_MS = 10_000;

export function PlansPage() {
  const plans = useQuery({ queryKey: ["plans"], queryFn: () => api.plans(), refetchInterval: REFRESH_MS });
  return (
    <>
      <h1>Plans that wait</h1>
      <Asked query={plans}>
        {({ items }) =>
          items.length === 0 ? (
            <p className="empty">
              No plan waits. One is submitted where an approval policy asks for a second person before a change is made.
            </p>
          ) : (
            <div className="scroll">
              <table>
                <thead>
                  <tr>
                    <th scope="col">Plan</th>
                    <th scope="col">Concerns</th>
                    <th scope="col">By</th>
                    <th scope="col">Submitted</th>
                    <th scope="col">Expires</th>
                    <th scope="col">Votes</th>
                  </tr>
                </thead>
                <tbody>
                  {items.map((plan) => (
                    <tr key={plan.id}>
                      <th scope="row">
                        <Link to={`/plans/${plan.id}`}>{plan.description || plan.id}</Link>
                      </th>
                      <td>
                        <Link to={pathOf(plan.node)}>{plan.node}</Link>
                      </td>
                      <td>{leaf(plan.author)}</td>
                      <td>{ago(plan.createTime, new Date())}</td>
                      <td>{plan.expireTime.slice(0, 16).replace("T", " ")}</td>
                      <td>{plan.votes.length}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          )
        }
      </Asked>
    </>
  );
}

export function PlanPage({ id }: { id: string }) {
  const plan = useQuery({ queryKey: ["plans", id], queryFn: () => api.keptPlan(id), refetchInterval: REFRESH_MS });
  return <Asked query={plan}>{(plan) => <PlanView plan={plan} />}</Asked>;
}

function PlanView({ plan }: { plan: KeptPlan }) {
  const [applied, setApplied] = useState<Changed | null>(null);
  return (
    <>
      <h1>
        {plan.description || "A plan"} <span className={`badge ${plan.state === "rejected" ? "bad" : "moving"}`}>{plan.state}</span>
      </h1>
      <p>
        By <strong>{leaf(plan.author)}</strong>, {ago(plan.createTime, new Date())}, for{" "}
        <Link to={pathOf(plan.node)}>{plan.node}</Link>. It expires {plan.expireTime.slice(0, 16).replace("T", " ")}.
      </p>
      {plan.votes.length > 0 && (
        <section aria-label="Votes">
          <h2>Votes</h2>
          <ul>
            {plan.votes.map((vote) => (
              <li key={`${vote.voter} ${vote.time}`}>
                <strong>{leaf(vote.voter)}</strong> {vote.approves ? "approves" : "rejects"}
                {vote.comment && <>: {vote.comment}</>} <span className="hint">{ago(vote.time, new Date())}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {plan.state === "open" && (
        <>
          <WouldDo plan={plan} />
          <Voting plan={plan} onApplied={setApplied} />
        </>
      )}
      {applied && <Receipts changed={applied} />}
    </>
  );
}

/** What it comes to now, which is what an approval is good for only while it is what was submitted. */
function WouldDo({ plan }: { plan: KeptPlan }) {
  const documents = plan.documents ?? [];
  const now = useQuery({
    queryKey: ["plan", plan.id],
    queryFn: () =>
      api.plan(documents.length === 1 ? documents[0] : documents, { overwrite: true, allowUnenforced: true }),
  });
  return (
    <>
      <h2>What it would change</h2>
      <Asked query={now}>
        {(planned) => (
          <>
            {hashOf(planned.plan) !== hashOf(plan.plan) && (
              <p className="notice warn">
                It would do something else by now than when it was submitted, so it can be neither approved nor applied. Its author
                submits it anew.
              </p>
            )}
            <Planned plan={planned} />
          </>
        )}
      </Asked>
    </>
  );
}

type Act = "approve" | "reject" | "apply";

function Voting({ plan, onApplied }: { plan: KeptPlan; onApplied: (changed: Changed) => void }) {
  const queries = useQueryClient();
  const [comment, setComment] = useState("");
  const act = useMutation({
    mutationFn: async (act: Act) => {
      if (act === "apply") onApplied(await api.applyKept(plan.id, comment));
      else await api.vote(plan.id, act, comment);
    },
    onSettled: () => queries.invalidateQueries(),
  });
  const button = (what: Act, title: string, className: string) => (
    <button type="button" className={className} disabled={act.isPending} onClick={() => act.mutate(what)}>
      {title}
    </button>
  );
  return (
    <section aria-label="Decide" className="stack">
      <h2>Decide</h2>
      <label>
        Comment
        <input value={comment} onChange={(event) => setComment(event.target.value)} />
      </label>
      <p className="buttons">
        {button("approve", "Approve", "primary")}
        {button("reject", "Reject", "")}
        {button("apply", "Apply", "")}
      </p>
      <p className="hint">Nobody approves their own plan; rejecting it takes it back. Whoever may make the change applies it.</p>
      {act.error && <Refusal error={act.error} />}
    </section>
  );
}

/** A plan's name is the revision that it was made on, and its hash. */
function hashOf(plan: string): string {
  return plan.slice(plan.indexOf("-") + 1);
}
