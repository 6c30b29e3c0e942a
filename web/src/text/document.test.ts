import { expect, test } from "vitest";
import { lineOf, mistakesIn, read, textOf } from "./document";

const ROUTE = `name: organizations/acme/tenants/a
spec:
  service: shop/web
  rules:
    - backendRefs:
        - subset: v1
          weight: 1
    - matches: [{path: {type: Prefix}}]
`;

test("what the server writes is not there to be edited, and all else comes back as it was", () => {
  const written = { name: "organizations/acme", labels: { on: "yes", "a/b": "1" }, spec: { timeout: "60s", port: 8080 } };
  const text = textOf({ ...written, kind: "Organization", uid: "u", etag: "e", revision: 3, updateTime: "t" });
  const got = read(text);
  expect("fields" in got && got.fields).toEqual(written);
});

test.each([
  ["/spec", 3],
  ["/spec/service", 3],
  ["/spec/rules/0/backendRefs/0/weight", 7],
  ["/spec/rules/1/matches/0/path/type", 8],
  // It is missing, so the nearest thing above it is what must be looked at.
  ["/spec/rules/1/backendRefs", 8],
  ["/labels", 0],
  ["", 0],
])("%s stands in line %i", (pointer, line) => {
  expect(lineOf(ROUTE, pointer)).toBe(line);
});

test("what is wrong with other resources is marked at no line of this one", () => {
  const errors = [
    { detail: "too heavy", pointer: "/spec/rules/0/backendRefs/0/weight" },
    { detail: "taken", pointer: "/spec/service", resource: "organizations/acme/tenants/a" },
    { detail: "not one of ours", pointer: "/spec/service", resource: "organizations/acme/tenants/b" },
  ];
  expect(mistakesIn(ROUTE, "organizations/acme/tenants/a", errors)).toEqual([
    { line: 7, detail: "too heavy" },
    { line: 3, detail: "taken" },
  ]);
});

test.each([
  ["a: 1\nb: [1, 2\n", 3],
  ["a: 1\n  b: 2\n", 1],
  ["- a\n", 1],
  ["just words", 1],
])("%j cannot be read, and says where", (text, line) => {
  const got = read(text);
  expect("mistakes" in got && got.mistakes[0]?.line).toBe(line);
});
