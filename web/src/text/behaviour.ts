/** The behaviour part of a plan as sentences, the same that `tombolo plan` prints. */
import type { Plan } from "../api/client";
import { leaf } from "../api/name";

type Behaviour = Plan["behaviour"];
type Host = Behaviour["hosts"][number];
type Service = Behaviour["services"][number];
type Reach = Behaviour["newlyReachable"][number];
type Proxies = Behaviour["proxies"][string];

/** A sentence for each thing that differs; none when nothing does. */
export function sentences(behaviour: Behaviour): string[] {
  return [
    ...behaviour.hosts.map((moved) => `host ${moved.host}: ${places(moved.before)} → ${places(moved.after)}`),
    ...behaviour.services.map(service),
    ...behaviour.newlyReachable.map((reach) => `${source(reach.from)} can newly reach ${reach.to}`),
    ...behaviour.noLongerReachable.map((reach) => `${source(reach.from)} can no longer reach ${reach.to}`),
    ...(behaviour.more > 0 ? [`and ${behaviour.more} more`] : []),
    ...(behaviour.hidden > 0 ? [`that you may not read: ${behaviour.hidden} more`] : []),
    ...Object.entries(behaviour.proxies).map(([cluster, told]) => `${cluster}: ${proxies(told)}`),
  ];
}

function places(places: Host["before"]): string {
  return listed(places.map((place) => `${leaf(place.gateway)} in ${place.cluster} to ${listed(place.services)}`));
}

function service(moved: Service): string {
  return `service ${moved.service} from ${moved.cluster}: ${spread(moved.before)} → ${spread(moved.after)}`;
}

function spread(spread: Service["before"]): string {
  if (!spread) return "not routed";
  const tiers = Object.values(spread.failover).flat();
  const failover = tiers.length > 0 ? `, failover to ${tiers.join(" then ")}` : "";
  return `${spread.rules.join(" | ")}${failover}`;
}

function source(from: Reach["from"]): string {
  return "namespace" in from ? from.namespace.join("/") : `whoever reaches ${from.outside}`;
}

/** Those that the edge has named, or else how many there may be. */
function proxies({ atMost, changed, away, routesHidden }: Proxies): string {
  if (changed) {
    const count = changed.names.length + changed.more;
    const rest = changed.more > 0 ? ` and ${changed.more} more` : "";
    const verb = count === 1 ? "1 proxy is" : `${count} proxies are`;
    const told =
      count === 0
        ? "no proxy is given anything else"
        : `${verb} given something else: ${listed(changed.names)}${rest}`;
    const silent = changed.silent > 0 ? `; of ${changed.silent} that went silent it is not known` : "";
    const hidden = routesHidden ? `; not by the ${routesHidden} changes of routes that you may not read` : "";
    return `${told}${silent}${hidden}`;
  }
  const told =
    typeof atMost === "number"
      ? `at most ${atMost} ${atMost === 1 ? "proxy is" : "proxies are"} given something else`
      : "its edge has not told how many proxies it has";
  return away ? `${told}; which is not known: ${away}` : told;
}

function listed(names: string[]): string {
  return names.length === 0 ? "nowhere" : names.join(", ");
}
