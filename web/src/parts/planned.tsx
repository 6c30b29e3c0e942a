/** What a plan would do: resources, behaviour, routes of each cluster. */
import type { Plan } from "../api/client";
import { sentences } from "../text/behaviour";
import { Changes, ValueDifference } from "./diff";
import { Findings } from "./outcome";

export function Planned({ plan }: { plan: Plan }) {
  const changes = plan.changes.filter((change) => change.action !== "unchanged");
  const told = sentences(plan.behaviour);
  return (
    <div className="planned">
      <h3>Resources</h3>
      {changes.length === 0 ? <p className="empty">Nothing changes.</p> : <Changes changes={changes} />}
      {(plan.handedOver.length > 0 || plan.handedOverHidden > 0) && <h3>Handed over by offers that it accepts</h3>}
      {plan.handedOver.length > 0 && <Changes changes={plan.handedOver} />}
      {plan.handedOverHidden > 0 && <p className="hint">{plan.handedOverHidden} that you may not read.</p>}
      <Findings findings={plan.findings} />
      <h3>Behaviour</h3>
      {told.length === 0 ? (
        <p className="empty">No request goes elsewhere than before, by what clusters report now.</p>
      ) : (
        <ul>
          {told.map((sentence) => (
            <li key={sentence}>{sentence}</li>
          ))}
        </ul>
      )}
      <Unheard reports={plan.behaviour.reports} />
      <Routes plan={plan} />
    </div>
  );
}

/** Where the behaviour rests on no report. */
function Unheard({ reports }: { reports: Plan["behaviour"]["reports"] }) {
  const unheard = Object.entries(reports).flatMap(([cluster, report]) => (report ? [] : [cluster]));
  if (unheard.length === 0) return null;
  return <p className="hint">Nothing has been reported by {unheard.join(", ")}, so of it nothing is known.</p>;
}

function Routes({ plan }: { plan: Plan }) {
  const clusters = Object.entries(plan.routes).filter(([, routes]) => routes.length > 0);
  return (
    <>
      <h3>Routes of each cluster</h3>
      {clusters.length === 0 && <p className="empty">No cluster is given another route.</p>}
      {clusters.map(([cluster, routes]) => (
        <details key={cluster} open={clusters.length === 1}>
          <summary>
            {cluster}: {routes.length} {routes.length === 1 ? "route" : "routes"}
          </summary>
          {routes.map((route) => (
            <details key={route.route} className="route">
              <summary>
                <span className={`action ${route.action}`}>{route.action}</span> <code>{route.route}</code>
              </summary>
              <ValueDifference before={route.before} after={route.after} />
            </details>
          ))}
        </details>
      ))}
      {plan.routesHidden > 0 && <p className="hint">{plan.routesHidden} more that you may not read.</p>}
    </>
  );
}
