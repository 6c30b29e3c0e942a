import { expect, test } from "vitest";
import { sentences } from "./behaviour";

// The same as in cli/src/plan/behaviour.rs, which says it on a terminal.
test("each difference is a sentence", () => {
  const door = "organizations/acme/g/gateways/in";
  expect(
    sentences({
      hosts: [
        { host: "shop.example.com", before: [], after: [{ gateway: door, cluster: "us-east", services: ["shop/web"] }] },
      ],
      services: [
        {
          service: "shop/web",
          workspace: "w",
          cluster: "us-east",
          before: { failover: { "1": ["us-west"], "2": ["eu"] }, rules: ["v1 95 %, v2 5 %"] },
          after: null,
        },
      ],
      newlyReachable: [{ from: { outside: door }, to: "shop/web", workspace: "w" }],
      noLongerReachable: [{ from: { namespace: ["us-east", "cart"] }, to: "shop/web", workspace: "w" }],
      hidden: 2,
      more: 0,
      proxies: {
        ap: { atMost: 2, away: "the edge of ap is not heard" },
        eu: { atMost: 9, changed: { names: ["gw-1", "web-1"], more: 3, silent: 1, version: [1, 7] } },
        me: { atMost: 9, routesHidden: 2, changed: { names: [], more: 0, silent: 0, version: [1, 7] } },
        sa: { atMost: 9, changed: { names: [], more: 0, silent: 0, version: [1, 7] } },
        "us-east": { atMost: 3 },
        "us-west": { atMost: null },
      },
      reports: {},
    }),
  ).toEqual([
    "host shop.example.com: nowhere → in in us-east to shop/web",
    "service shop/web from us-east: v1 95 %, v2 5 %, failover to us-west then eu → not routed",
    `whoever reaches ${door} can newly reach shop/web`,
    "us-east/cart can no longer reach shop/web",
    "that you may not read: 2 more",
    "ap: at most 2 proxies are given something else; which is not known: the edge of ap is not heard",
    "eu: 5 proxies are given something else: gw-1, web-1 and 3 more; of 1 that went silent it is not known",
    "me: no proxy is given anything else; not by the 2 changes of routes that you may not read",
    "sa: no proxy is given anything else",
    "us-east: at most 3 proxies are given something else",
    "us-west: its edge has not told how many proxies it has",
  ]);
});
