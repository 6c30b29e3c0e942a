import { expect, test } from "vitest";
import type { Resource } from "./client";
import { below, isWithin, kindOf, lineage, matching, nest, type Branch } from "./name";

const PAY = "organizations/acme/tenants/pay";
const resource = (name: string) => ({ name }) as Resource;
const shown = (branches: Branch[]): unknown[] =>
  branches.map(({ resource: { name }, children }) => [name.split("/").at(-1), ...shown(children)]);

test("a name tells its kind and those above it", () => {
  expect(kindOf(`${PAY}/workspaces/w/trafficgroups/g/serviceroutes/r`)).toBe("ServiceRoute");
  expect(lineage(PAY)).toEqual(["organizations/acme", PAY]);
  expect(isWithin(`${PAY}/workspaces/w`, PAY)).toBe(true);
  expect(isWithin(`${PAY}ments`, PAY)).toBe(false);
  expect(below("GatewayGroup")).toContainEqual(["gateways", "Gateway"]);
  expect(below("Gateway")).not.toContainEqual(["gateways", "Gateway"]);
});

test("a list becomes a tree, also where the top cannot be read", () => {
  const list = ["organizations/acme/users/ann", `${PAY}/workspaces/b`, `${PAY}/bindings/x`, PAY, `${PAY}/workspaces/a`];
  const tree = nest(list.map(resource));
  expect(shown(tree)).toEqual([["pay", ["a"], ["b"], ["x"]], ["ann"]]);
  expect(shown(matching(tree, "B"))).toEqual([["pay", ["b"]]]);
  expect(shown(matching(tree, "pay"))).toEqual([["pay"]]);
  expect(matching(tree, "nobody")).toEqual([]);
});
