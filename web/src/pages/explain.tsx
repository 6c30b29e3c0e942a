/** Where a request goes, and who decided each step of it. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Explanation } from "../api/client";
import { kindOf, leaf } from "../api/name";
import { Asked } from "../parts/asked";
import { submitted } from "../parts/form";
import { Refusal } from "../parts/refusal";
import { go, Link, pathOf } from "../router";
import { useSession } from "../session";
import { questionOf, type Form } from "../text/question";
import { OriginView } from "./effective";
import { useTree } from "./tree";

type Step = Explanation["steps"][number];
type Outcome = Explanation["outcome"];
type Place = Extract<Outcome, { forward: unknown }>["forward"]["targets"][number]["places"][number];
type Told = Pick<Explanation, "steps" | "stepsHidden" | "outcome">;

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const STAGES: Record<Step["stage"], string> = {
  entry: "Entry",
  host: "Host",
  grant: "Grant",
  gatewayRule: "Rule of the gateway",
  serviceRule: "Rule of the service",
  failover: "Failover",
};

export function ExplainPage({ address }: { address: URL }) {
  const given = (name: string) => address.searchParams.get(name) ?? "";
  const form: Form = {
    from: given("from"),
    method: given("method") || "GET",
    url: given("url"),
    headers: given("headers"),
  };
  const [error, setError] = useState<Error | null>(null);
  const ask = (data: FormData) => {
    const text = (name: string) => String(data.get(name));
    const asked = { from: text("from"), method: text("method"), url: text("url"), headers: text("headers") };
    try {
      questionOf(asked);
      setError(null);
      go(`/explain?${new URLSearchParams({ ...asked })}`);
    } catch (error) {
      setError(error as Error);
    }
  };
  return (
    <>
      <h1>Explain</h1>
      <form key={address.search} className="stack" onSubmit={submitted(ask)}>
        <label>
          From
          <input name="from" required defaultValue={form.from} list="viewpoints" aria-describedby="about-from" />
        </label>
        <Viewpoints />
        <p id="about-from" className="hint">
          <code>CLUSTER/NAMESPACE/SERVICE</code> is an application that calls through its sidecar; <code>CLUSTER/gateway/NAME</code>{" "}
          is outside of the mesh, at the gateway of that name.
        </p>
        <div className="row-form">
          <label>
            Method
            <select name="method" defaultValue={form.method}>
              {METHODS.map((method) => (
                <option key={method}>{method}</option>
              ))}
            </select>
          </label>
          <label className="wide">
            URL
            <input name="url" required defaultValue={form.url} placeholder="http://reviews.shop:8080/items" />
          </label>
        </div>
        <label>
          Headers, one per line
          <textarea name="headers" rows={2} defaultValue={form.headers} placeholder="x-variant: two" spellCheck={false} />
        </label>
        <button type="submit" className="primary">
          Explain
        </button>
      </form>
      {error ? <Refusal error={error} /> : form.from && form.url && <AnswerTo form={form} />}
    </>
  );
}

/** What can be asked from, as far as the tree tells. */
function Viewpoints() {
  const session = useSession();
  const { data } = useTree(session?.top ?? "");
  const items = data?.items ?? [];
  const of = (kind: string) => items.filter((item) => kindOf(item.name) === kind).map((item) => leaf(item.name));
  return (
    <datalist id="viewpoints">
      {of("Cluster").flatMap((cluster) =>
        of("Gateway").map((gateway) => <option key={`${cluster}/${gateway}`} value={`${cluster}/gateway/${gateway}`} />),
      )}
    </datalist>
  );
}

function AnswerTo({ form }: { form: Form }) {
  const explained = useQuery({ queryKey: ["explain", form], queryFn: () => api.explain(questionOf(form)) });
  return (
    <Asked query={explained}>
      {(answer) => (
        <section aria-label="Answer">
          <h2>What management computes, at revision {answer.revision}</h2>
          <Chain told={answer} />
          {answer.advice.length > 0 && (
            <section aria-label="What would have to change">
              <h3>What would have to change</h3>
              <ul>
                {answer.advice.map((advice) => (
                  <li key={advice.told}>
                    {advice.told}
                    {advice.resources.map((name) => (
                      <span key={name}>
                        {" "}
                        <Link to={pathOf(name)}>{leaf(name)}</Link>
                      </span>
                    ))}
                  </li>
                ))}
              </ul>
            </section>
          )}
          {answer.adviceHidden > 0 && <p className="hint">{answer.adviceHidden} more that you may not read.</p>}
          {answer.edge && <Edge edge={answer.edge} />}
        </section>
      )}
    </Asked>
  );
}

function Edge({ edge }: { edge: NonNullable<Explanation["edge"]> }) {
  if ("away" in edge) {
    return (
      <p className="notice warn">The edge of the cluster, which has the last word on instances, could not be asked: {edge.away}</p>
    );
  }
  return (
    <>
      <h2>What the edge says, which holds revision {edge.answer.version[1]}</h2>
      <Chain told={edge.answer} />
    </>
  );
}

function Chain({ told }: { told: Told }) {
  return (
    <ol className="chain">
      {told.steps.map((step, at) => (
        <li key={at}>
          <StepView step={step} />
        </li>
      ))}
      {told.stepsHidden > 0 && <li className="hint">{told.stepsHidden} steps are over resources that you may not read.</li>}
      <li className="outcome">
        <OutcomeView outcome={told.outcome} />
      </li>
    </ol>
  );
}

function StepView({ step }: { step: Step }) {
  if ("hidden" in step) return <p className="hint">{STAGES[step.stage]}: decided by a resource that you may not read.</p>;
  return (
    <>
      <p>
        <strong>{STAGES[step.stage]}</strong>: {step.told}
      </p>
      {step.origin && (
        <p className="hint">
          decided by <OriginView origin={step.origin} />
        </p>
      )}
      {step.tried && step.tried.length > 0 && (
        <details>
          <summary>{step.tried.length} tried before, and not taken</summary>
          <ul>
            {step.tried.map((tried, at) => (
              <li key={at}>
                {tried.origin && <OriginView origin={tried.origin} />}: {tried.why.join(", ")}
              </li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function OutcomeView({ outcome }: { outcome: Outcome }) {
  if ("forward" in outcome) {
    const sum = outcome.forward.targets.reduce((sum, target) => sum + target.weight, 0);
    return (
      <>
        <p>
          <span className="badge good">forwarded</span>{" "}
          {outcome.forward.origin && (
            <span className="hint">
              by <OriginView origin={outcome.forward.origin} />
            </span>
          )}
        </p>
        <ul>
          {outcome.forward.targets.map((target) => (
            <li key={target.upstream}>
              {Math.round((100 * target.weight) / sum)} % to <code>{target.upstream}</code>
              <ol className="places">
                {target.places.map((place, at) => (
                  <li key={at}>
                    {place.cluster}
                    {place.region && ` (${place.region})`}, priority {place.priority}: {hosts(place.hosts)}
                  </li>
                ))}
              </ol>
              {target.places.length === 0 && <p className="warn-text">It has no endpoints: the proxy answers 503.</p>}
            </li>
          ))}
        </ul>
      </>
    );
  }
  if ("refuse" in outcome) {
    return (
      <p>
        <span className="badge bad">refused with {outcome.refuse.status}</span> {outcome.refuse.reason}{" "}
        {outcome.refuse.origin && <OriginView origin={outcome.refuse.origin} />}
      </p>
    );
  }
  if ("redirect" in outcome) {
    return (
      <p>
        <span className="badge good">redirected with {outcome.redirect.status}</span> to <code>{outcome.redirect.location}</code>{" "}
        {outcome.redirect.origin && <OriginView origin={outcome.redirect.origin} />}
      </p>
    );
  }
  if ("notTaken" in outcome) {
    return (
      <p>
        <span className="badge bad">nothing takes it</span> {outcome.notTaken.reason}
      </p>
    );
  }
  return <p className="hint">What becomes of it is decided by a resource that you may not read.</p>;
}

function hosts(hosts: Place["hosts"]): string {
  if ("reported" in hosts) return `reported as ${hosts.reported}`;
  const [what, list] = "instances" in hosts ? ["instances", hosts.instances] : ["gateways", hosts.gateways];
  const told = list.map((host) => (host.usable ? host.address : `${host.address} (not usable)`));
  return `${what} ${told.join(", ") || "none"}`;
}
